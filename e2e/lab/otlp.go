package lab

import (
	"compress/gzip"
	"io"
	"net/http"

	collector "go.opentelemetry.io/proto/otlp/collector/metrics/v1"
	"google.golang.org/protobuf/proto"
)

// Collector takes metrics by OTLP over HTTP, in protobuf, and hands on each
// request with its headers. What is no OTLP is refused. take may be called
// concurrently.
func Collector(take func(*collector.ExportMetricsServiceRequest, http.Header)) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body := io.Reader(r.Body)
		if r.Header.Get("Content-Encoding") == "gzip" {
			unpacked, err := gzip.NewReader(r.Body)
			if err != nil {
				http.Error(w, err.Error(), http.StatusBadRequest)
				return
			}
			body = unpacked
		}
		content, err := io.ReadAll(body)
		var sent collector.ExportMetricsServiceRequest
		if err == nil {
			err = proto.Unmarshal(content, &sent)
		}
		if err != nil || r.Method != http.MethodPost || r.URL.Path != "/v1/metrics" || r.Header.Get("Content-Type") != "application/x-protobuf" {
			http.Error(w, "no OTLP", http.StatusBadRequest)
			return
		}
		take(&sent, r.Header)
		answer, _ := proto.Marshal(&collector.ExportMetricsServiceResponse{})
		w.Header().Set("Content-Type", "application/x-protobuf")
		_, _ = w.Write(answer)
	})
}
