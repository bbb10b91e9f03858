package sandbox

import (
	"fmt"
	"os"
	"path/filepath"
)

// The work directory is disposable: a person may delete it, or a part of it, while
// builds are at work. Their commits are not to blame for what follows, and whoever
// comes next makes a lock of the same name and takes the same place.

// removed names what of the place was removed while a build was at work in it;
// empty: nothing. A build can remove none of it.
func (p *place) removed() string {
	if at, ours := p.lockFile(); !at || !ours {
		return p.lock.Name()
	}
	for _, dir := range p.directories() {
		if _, err := os.Lstat(dir.path); err != nil {
			return dir.path
		}
	}
	return ""
}

// isAnothers tells whether somebody else has the place since its lock was removed.
func (p *place) isAnothers() bool {
	at, ours := p.lockFile()
	return at && !ours
}

// lockFile tells whether there is a lock, and whether it is the one that we hold.
func (p *place) lockFile() (at, ours bool) {
	found, err := os.Lstat(p.lock.Name())
	if err != nil {
		return false, false
	}
	held, err := p.lock.Stat()
	return true, err == nil && os.SameFile(found, held)
}

// sharesName tells whether the place's next owner has its name: unless the whole
// work directory was made anew.
func (p *place) sharesName() bool {
	id, err := dirID(filepath.Dir(p.executors))
	return err == nil && fmt.Sprintf("%s-%d", id, p.number) == p.id
}
