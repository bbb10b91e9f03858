package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"
	"time"
)

// dial tells which addresses answer. Whether that is a breach is for those to
// say who know what the node enforces.
func dial(addresses []string) {
	var all sync.WaitGroup
	for _, address := range addresses {
		all.Go(func() {
			conn, err := net.DialTimeout("tcp", address, 2*time.Second)
			if err != nil {
				fmt.Println("held", address, err)
				return
			}
			conn.Close()
			fmt.Println("reached", address)
		})
	}
	all.Wait()
}

// request is one that is tried.
type request struct {
	Name          string // of what is tried
	Method        string
	URL           string
	Authorization string
	Type          string // of the content
	Body          string
}

// response is what came of it.
type response struct {
	Name   string
	Status int    // 0: there was none
	Body   string // its beginning, or the error
}

func client(roots *tls.Config) *http.Client {
	return &http.Client{
		Timeout:       5 * time.Second,
		Transport:     &http.Transport{TLSClientConfig: roots},
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func (r request) try(with *http.Client) response {
	outgoing, err := http.NewRequest(r.Method, r.URL, strings.NewReader(r.Body))
	if err != nil {
		return response{r.Name, 0, err.Error()}
	}
	if r.Authorization != "" {
		outgoing.Header.Set("Authorization", r.Authorization)
	}
	if r.Type != "" {
		outgoing.Header.Set("Content-Type", r.Type)
	}
	answer, err := with.Do(outgoing)
	if err != nil {
		return response{r.Name, 0, err.Error()}
	}
	defer answer.Body.Close()
	body, _ := io.ReadAll(io.LimitReader(answer.Body, 4<<10))
	return response{r.Name, answer.StatusCode, string(bytes.ToValidUTF8(body, nil))}
}

// ask makes requests without knowing anything: METHOD URL [AUTHORIZATION], each in
// one argument with bars between. An answer other than a refusal is a breach.
func ask(args []string) {
	anyone := client(&tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a thief does not mind
	var all sync.WaitGroup
	for _, arg := range args {
		parts := append(strings.Split(arg, "|"), "", "")
		all.Go(func() {
			got := request{Name: parts[0] + " " + parts[1], Method: parts[0], URL: parts[1], Authorization: parts[2]}.try(anyone)
			switch got.Status {
			case 0, http.StatusUnauthorized, http.StatusForbidden, http.StatusNotFound, http.StatusBadRequest, http.StatusMethodNotAllowed:
				fmt.Println("held", got.Name, got.Status, strings.TrimSpace(got.Body))
			default:
				breach("%s %d %s", got.Name, got.Status, got.Body)
			}
		})
	}
	all.Wait()
}

// api makes the requests that come in as JSON, a line each, with the token in a
// file, and prints what came of them in the same way.
func api(args []string) {
	token, err := os.ReadFile(args[0])
	must(err)
	anyone := client(&tls.Config{InsecureSkipVerify: true}) //nolint:gosec // a thief does not mind
	for lines := json.NewDecoder(bufio.NewReader(os.Stdin)); lines.More(); {
		var next request
		must(lines.Decode(&next))
		next.Authorization = "Bearer " + strings.TrimSpace(string(token))
		must(json.NewEncoder(os.Stdout).Encode(next.try(anyone)))
	}
	os.Exit(0)
}

// tell answers everybody with a word: it stands in for a server that trusts the
// network it is in.
func tell(args []string) {
	must(http.ListenAndServe(args[0], http.HandlerFunc(func(rw http.ResponseWriter, _ *http.Request) { //nolint:gosec // until the test ends
		fmt.Fprintln(rw, args[1])
	})))
}
