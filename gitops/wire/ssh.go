package wire

import (
	"context"
	"errors"
)

func newSSHTransport(address, authFunc) transport { return noSSH{} }

type noSSH struct{}

func (noSSH) begin(context.Context, string, bool) (conversation, error) {
	return nil, errors.New("ssh comes in the next commit")
}
func (noSSH) scrub(s string) string { return s }
func (noSSH) close() error          { return nil }
