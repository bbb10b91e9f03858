package wire

import (
	"bytes"
	"context"
	"errors"
	"io"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"
)

// sshTransport speaks with the repository through commands that an SSH server
// runs: one connection is kept, and every conversation is a session on it.
type sshTransport struct {
	address  address
	auth     authFunc
	patience time.Duration

	sessions chan struct{} // held by every conversation: sshd allows 10 sessions on a connection
	opening  chan struct{} // held while a session is opened

	mu     sync.Mutex
	kept   *sshConn
	closed bool
}

// sshConn is a connection that ends when it is neither kept nor in use.
type sshConn struct {
	client *ssh.Client
	uses   int
	kept   bool
}

// maxSessions stays below sshd's MaxSessions.
const maxSessions = 8

// openPatience is how long a kept connection may take to open a session before
// it is taken for dead: firewalls drop idle connections without a word.
const openPatience = 10 * time.Second

func newSSHTransport(a address, auth authFunc) *sshTransport {
	return &sshTransport{
		address:  a,
		auth:     auth,
		patience: patience,
		sessions: make(chan struct{}, maxSessions),
		opening:  make(chan struct{}, 1),
	}
}

// scrub: what SSH has in secret never goes out.
func (t *sshTransport) scrub(text string) string { return text }

// forget: every session learns anew.
func (t *sshTransport) forget() {}

func (t *sshTransport) close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.closed = true
	if t.kept != nil {
		t.kept.client.Close()
		t.kept = nil
	}
	return nil
}

func (t *sshTransport) begin(ctx context.Context, service string, v2 bool) (conversation, error) {
	select {
	case t.sessions <- struct{}{}:
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	c, err := t.open(ctx, service, v2)
	if err != nil {
		<-t.sessions
		return nil, err
	}
	return c, nil
}

// open starts the service's command in a session, on the kept connection or,
// where that is dead or has no session left, on a new one, which is kept from
// then on. Nothing of a request was sent before, so trying again repeats
// nothing. One at a time: the others wait for what this one dials.
func (t *sshTransport) open(ctx context.Context, service string, v2 bool) (*sshConversation, error) {
	select {
	case t.opening <- struct{}{}:
		defer func() { <-t.opening }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	if conn := t.use(); conn != nil {
		c, err := t.start(ctx, conn, service, v2, openPatience)
		if err == nil || ctx.Err() != nil {
			return c, because(ctx, err)
		}
	}
	client, err := dialSSH(ctx, t.address, t.auth)
	if err != nil {
		return nil, err
	}
	conn := &sshConn{client: client, uses: 1}
	c, err := t.start(ctx, conn, service, v2, t.patience)
	if err != nil {
		return nil, because(ctx, err)
	}
	if err := t.keep(conn); err != nil {
		c.close()
		return nil, err
	}
	return c, nil
}

// start begins a conversation on a connection that is in use for it; without
// success the use ends.
func (t *sshTransport) start(ctx context.Context, conn *sshConn, service string, v2 bool, bound time.Duration) (*sshConversation, error) {
	c := &sshConversation{transport: t, conn: conn, watch: newWatch(ctx, t.patience)}
	if err := c.start(service, v2, bound); err != nil {
		c.watch.close()
		t.release(conn, true)
		return nil, err
	}
	return c, nil
}

// use is the kept connection, in use from now on; nil where there is none.
func (t *sshTransport) use() *sshConn {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.kept != nil {
		t.kept.uses++
	}
	return t.kept
}

// keep makes a connection the one that is kept, until it ends.
func (t *sshTransport) keep(conn *sshConn) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.closed {
		return errors.New("closed")
	}
	conn.kept, t.kept = true, conn
	go func() {
		_ = conn.client.Wait() // until the connection ends, from either side
		t.mu.Lock()
		defer t.mu.Unlock()
		conn.kept = false
		if t.kept == conn {
			t.kept = nil
		}
	}()
	return nil
}

// release ends one use of a connection; bad ones are not kept.
func (t *sshTransport) release(conn *sshConn, bad bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	conn.uses--
	if bad {
		conn.kept = false
		if t.kept == conn {
			t.kept = nil
		}
	}
	if !conn.kept && conn.uses == 0 {
		conn.client.Close()
	}
}

// sshConversation is one session with the service's command running in it.
type sshConversation struct {
	transport *sshTransport
	conn      *sshConn
	watch     *watch
	session   *ssh.Session
	stdin     io.WriteCloser
	stdout    reader
	stderr    *tail
	exited    chan struct{}
	unhook    func() bool
	bad       bool // the connection must not be kept
	sendErr   error
}

// start opens the session and runs the command, within a bound: x/crypto knows
// no context.
func (c *sshConversation) start(service string, v2 bool, bound time.Duration) error {
	opened := make(chan error, 1)
	go func() { opened <- c.run(service, v2) }()
	timer := time.NewTimer(bound)
	defer timer.Stop()
	var err error
	select {
	case err = <-opened:
	case <-timer.C:
		err = errSilent
	case <-c.watch.ctx.Done():
		err = context.Cause(c.watch.ctx)
	}
	if err != nil {
		if errors.Is(err, errSilent) || c.watch.ctx.Err() != nil {
			// It may still open: end it then.
			go func() {
				if <-opened == nil {
					c.session.Close()
				}
			}()
		}
		return err
	}
	c.exited = make(chan struct{})
	go func() {
		_ = c.session.Wait()
		close(c.exited)
	}()
	// Reads and writes of a session know no context either: closing the session
	// ends them where the server answers, closing the connection where it does
	// not.
	c.unhook = context.AfterFunc(c.watch.ctx, func() {
		c.session.Close()
		select {
		case <-c.exited:
		case <-time.After(time.Second):
			c.conn.client.Close()
		}
	})
	return nil
}

func (c *sshConversation) run(service string, v2 bool) error {
	session, err := c.conn.client.NewSession()
	if err != nil {
		return err
	}
	c.session, c.stderr = session, &tail{}
	session.Stderr = c.stderr
	if v2 {
		// Without waiting: most servers drop the variable, and say so or not.
		variable := struct{ Name, Value string }{"GIT_PROTOCOL", "version=2"}
		if _, err := session.SendRequest("env", false, ssh.Marshal(variable)); err != nil {
			session.Close()
			return err
		}
	}
	if c.stdin, err = session.StdinPipe(); err == nil {
		c.stdout, err = session.StdoutPipe()
	}
	if err == nil {
		err = session.Start(service + " " + quote(c.transport.address.path))
	}
	if err != nil {
		session.Close()
	}
	return err
}

// quote is how git quotes a path for the shell at the other end (sq_quote_buf).
func quote(path string) string {
	return "'" + strings.NewReplacer("'", `'\''`, "!", `'\!'`).Replace(path) + "'"
}

func (c *sshConversation) stateless() bool { return false }

func (c *sshConversation) advertisement() (reader, error) {
	return &sshReader{c, c.watch.reading(c.stdout)}, nil
}

func (c *sshConversation) exchange(head []byte, rest reader) (reader, error) {
	to := c.watch.writing(c.stdin)
	_, err := to.Write(head)
	if err == nil && rest != nil {
		_, err = io.Copy(to, rest)
	}
	if err == nil {
		// No further request follows; the service ends after this one.
		err = c.stdin.Close()
	}
	// A server that refuses early closes its end while we still write: what it
	// says counts for more than the failed write.
	c.sendErr = because(c.watch.ctx, err)
	return &sshReader{c, c.watch.reading(c.stdout)}, nil
}

func (c *sshConversation) finish() error { return nil }

func (c *sshConversation) close() {
	if c.unhook == nil {
		return
	}
	stopped := c.unhook()
	c.unhook = nil
	if stopped {
		// A service that waits for a request ends when its input does.
		c.stdin.Close()
		c.session.Close()
	}
	c.bad = !stopped
	c.watch.close()
	c.transport.release(c.conn, c.bad)
	<-c.transport.sessions
}

// sshReader explains an end that comes too early by what the server wrote to
// its error stream: there forges and git say that they know no such repository.
type sshReader struct {
	c    *sshConversation
	from reader
}

func (r *sshReader) Read(p []byte) (int, error) {
	n, err := r.from.Read(p)
	if n > 0 || !errors.Is(err, io.EOF) {
		return n, err
	}
	select {
	case <-r.c.exited: // its error stream is complete
	case <-time.After(time.Second):
	case <-r.c.watch.ctx.Done():
	}
	if text := r.c.stderr.String(); strings.TrimSpace(text) != "" {
		return 0, &remoteError{text}
	}
	if r.c.sendErr != nil && !errors.Is(r.c.sendErr, io.EOF) {
		return 0, r.c.sendErr
	}
	return 0, io.EOF
}

// tail keeps the first part of an error stream and takes the rest, so that the
// stream never stalls.
type tail struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text.Write(p[:min(len(p), max(0, maxKept-t.text.Len()))])
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text.String()
}
