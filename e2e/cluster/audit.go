package cluster

import (
	"encoding/json"
	"os"
	"strings"
	"testing"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// Request is one that a service account made of the API server.
type Request struct {
	At   time.Time // it arrived
	What string    // verb and resource: "create jobs", "get pods/log"
	Code int       // of the answer; 0: of a watch that goes on
}

// Requests are what a user asked of the API server since a time, from its audit
// log: in the order of the first word about each.
func (n *Node) Requests(t testing.TB, user string, since time.Time) (requests []Request) {
	t.Helper()
	log, err := os.ReadFile(n.path("audit.log"))
	if err != nil {
		t.Fatal(err)
	}
	known := map[types.UID]int{} // a watch is told of when it begins and when it ends
	for line := range strings.Lines(string(log)) {
		var event struct {
			AuditID                  types.UID
			Verb                     string
			User                     struct{ Username string }
			ObjectRef                struct{ Resource, Subresource string }
			ResponseStatus           struct{ Code int }
			RequestReceivedTimestamp metav1.MicroTime
		}
		if err := json.Unmarshal([]byte(line), &event); err != nil {
			continue // the line that is being written
		}
		if event.User.Username != user || !event.RequestReceivedTimestamp.After(since) {
			continue
		}
		at, again := known[event.AuditID]
		if !again {
			at = len(requests)
			known[event.AuditID] = at
			what := event.Verb + " " + event.ObjectRef.Resource
			if event.ObjectRef.Subresource != "" {
				what += "/" + event.ObjectRef.Subresource
			}
			requests = append(requests, Request{At: event.RequestReceivedTimestamp.Time, What: what})
		}
		requests[at].Code = event.ResponseStatus.Code
	}
	return requests
}
