package store

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"towpath.dev/towpath/gitops"
)

// state is which packs make up the copy, and what is known about them. It is
// written whole after each change.
type state struct {
	packs   []packState
	shallow map[gitops.Hash]struct{} // commits whose parents are not all here
	tips    []gitops.Hash            // commits that are told to the server as ours, the newest first
	born    int64                    // bytes of all packs when the copy was last judged to be as small as it can be
}

type packState struct {
	name string
	size int64
}

func (st state) bytes() (total int64) {
	for _, p := range st.packs {
		total += p.size
	}
	return total
}

const stateFormat = "towpath store 1"

func statePath(dir string) string { return filepath.Join(dir, "state") }

func (st state) format() []byte {
	var b bytes.Buffer
	fmt.Fprintln(&b, stateFormat)
	fmt.Fprintln(&b, "born", st.born)
	for _, p := range st.packs {
		fmt.Fprintln(&b, "pack", p.name, p.size)
	}
	for _, h := range sortedHashes(st.shallow) {
		fmt.Fprintln(&b, "shallow", h)
	}
	for _, h := range st.tips {
		fmt.Fprintln(&b, "tip", h)
	}
	fmt.Fprintf(&b, "sum %x\n", sha256.Sum256(b.Bytes()))
	return b.Bytes()
}

var errState = errors.New("malformed cache state")

func parseState(content []byte) (state, error) {
	st := state{shallow: map[gitops.Hash]struct{}{}}
	at := bytes.LastIndex(content, []byte("\nsum ")) + 1
	sum := sha256.Sum256(content[:at])
	if at == 0 || string(content[at:]) != "sum "+hex.EncodeToString(sum[:])+"\n" {
		return state{}, errState
	}
	lines := strings.Split(strings.TrimSuffix(string(content[:at]), "\n"), "\n")
	if lines[0] != stateFormat {
		return state{}, errState
	}
	for _, line := range lines[1:] {
		var err error
		var h gitops.Hash
		switch f := strings.Split(line, " "); {
		case len(f) == 2 && f[0] == "born":
			st.born, err = strconv.ParseInt(f[1], 10, 64)
		case len(f) == 3 && f[0] == "pack":
			p := packState{name: f[1]}
			if p.size, err = strconv.ParseInt(f[2], 10, 64); err == nil && p.name != filepath.Base(p.name) {
				err = errState
			}
			st.packs = append(st.packs, p)
		case len(f) == 2 && f[0] == "shallow":
			h, err = gitops.ParseHash(f[1])
			st.shallow[h] = struct{}{}
		case len(f) == 2 && f[0] == "tip":
			h, err = gitops.ParseHash(f[1])
			st.tips = append(st.tips, h)
		default:
			err = errState
		}
		if err != nil {
			return state{}, errState
		}
	}
	return st, nil
}

func readState(dir string) (state, error) {
	content, err := os.ReadFile(statePath(dir))
	if err != nil {
		return state{}, err
	}
	return parseState(content)
}

func writeState(dir string, st state) error {
	temporary := statePath(dir) + ".tmp"
	if err := os.WriteFile(temporary, st.format(), 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, statePath(dir))
}

func sortedHashes(set map[gitops.Hash]struct{}) []gitops.Hash {
	hashes := make([]gitops.Hash, 0, len(set))
	for h := range set {
		hashes = append(hashes, h)
	}
	slices.SortFunc(hashes, func(a, b gitops.Hash) int { return bytes.Compare(a[:], b[:]) })
	return hashes
}
