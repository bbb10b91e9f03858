package wire

import "time"

// Impatient makes a Remote take a server for silent after a shorter time.
func (r *Remote) Impatient(d time.Duration) {
	switch link := r.link.(type) {
	case *httpTransport:
		link.patience = d
	case *sshTransport:
		link.patience = d
	}
}
