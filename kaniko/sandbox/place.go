package sandbox

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// maxPlaces bounds how many builds can be at work in one directory.
const maxPlaces = 256

// place is where one build is at work: a number that nobody else has in the work
// directory, a name for the runtime's container and a directory; and a range of ids
// that nobody else has on this machine.
//
//	builds/3.lock    held while the build runs: by this process, whatever becomes of it
//	builds/3/        root's alone
//	  private/       orders, reports, the bundle, the runtime's state
//	  box/           the range's alone: root, out, context, bases and what else the build sees
//
// A place whose lock is free may hold the remains of a build that was killed.
type place struct {
	number  int
	id      string // the container's and the cgroup's
	firstID uint32 // on this machine; it is 0 in the build. 0: none was taken yet
	dir     string

	executors string // directory of all executors
	doorstep  string // see doorsteps
	runtime   string
	lock      *os.File // of the number
	ids       *os.File // of the range, see rangeLocks; nil: it has none
}

func (p *place) path(elements ...string) string {
	return filepath.Join(append([]string{p.dir}, elements...)...)
}

// claim takes the first free place and clears what a killed build left there.
func (b *Builder) claim() (*place, error) {
	if err := b.makeDirs(); err != nil {
		return nil, err
	}
	for number := range maxPlaces {
		p, err := b.tryPlace(number)
		if err != nil {
			return nil, err
		}
		if p == nil {
			continue
		}
		if err := p.clear(); err != nil {
			p.unlock()
			return nil, fmt.Errorf("clear what an earlier build left: %w", err)
		}
		if err := p.takeRange(b.firstID(), rangeLocks); err != nil {
			p.unlock()
			return nil, err
		}
		if err := p.make(); err != nil {
			return nil, errors.Join(fmt.Errorf("make build directory: %w", err), p.release())
		}
		return p, nil
	}
	return nil, fmt.Errorf("all %d places in %s are taken", maxPlaces, b.Dir)
}

// lingering is how long the locks of a killed process may outlive it. A child that it
// was about to start holds them, too, until the child runs its own program. A lock that
// is held for longer belongs to somebody who is at work.
const lingering = 500 * time.Millisecond

// Sweep clears what builds that were killed left behind: processes, cgroups and
// directories. Builds at work, of this process or another, are left alone.
func (b *Builder) Sweep(ctx context.Context) error { return b.sweep(ctx, lingering) }

func (b *Builder) sweep(ctx context.Context, lingering time.Duration) error {
	builds := filepath.Join(b.Dir, "builds")
	if _, err := os.Lstat(builds); errors.Is(err, fs.ErrNotExist) {
		return ctx.Err()
	}
	if err := b.checkOwners(builds); err != nil {
		return fmt.Errorf("sweep: %w", err)
	}
	locks, err := filepath.Glob(filepath.Join(builds, "*.lock"))
	if err != nil {
		return err
	}
	var problems []error
	deadline := time.Now().Add(lingering)
	for _, lock := range locks {
		number, err := strconv.Atoi(strings.TrimSuffix(filepath.Base(lock), ".lock"))
		if err != nil || number < 0 || number >= maxPlaces {
			continue
		}
		p, err := b.tryPlace(number)
		for p == nil && err == nil && time.Now().Before(deadline) && ctx.Err() == nil {
			time.Sleep(lingering / 20)
			p, err = b.tryPlace(number)
		}
		if err != nil {
			problems = append(problems, err)
			continue
		}
		if p != nil {
			problems = append(problems, p.release())
		}
	}
	if err := errors.Join(problems...); err != nil {
		return fmt.Errorf("sweep %s: %w", b.Dir, err)
	}
	return ctx.Err()
}

// makeDirs makes the work directory, for root alone: what a build leaves, setuid
// programs among it, is no other user's business.
func (b *Builder) makeDirs() error {
	for _, dir := range []struct {
		path string
		mode fs.FileMode
	}{
		{b.Dir, 0o700},
		{filepath.Join(b.Dir, "builds"), 0o700},
		{filepath.Join(b.Dir, "logs"), 0o700},
		{filepath.Join(b.Dir, "executors"), 0o755}, // mounted where builds see it
	} {
		if err := os.MkdirAll(dir.path, dir.mode); err != nil {
			return fmt.Errorf("make work directory: %w", err)
		}
		if err := b.checkOwners(dir.path); err != nil {
			return err
		}
		// Whatever the umask was, or somebody before.
		if err := os.Chmod(dir.path, dir.mode); err != nil {
			return fmt.Errorf("make work directory: %w", err)
		}
	}
	return nil
}

// tryPlace locks a place; nil when somebody is at work there.
func (b *Builder) tryPlace(number int) (*place, error) {
	builds := filepath.Join(b.Dir, "builds")
	lock, err := os.OpenFile(filepath.Join(builds, fmt.Sprintf("%d.lock", number)), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock build directory: %w", err)
	}
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		lock.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, nil
		}
		return nil, fmt.Errorf("lock build directory: %w", err)
	}
	id, idErr := dirID(b.Dir)
	doorstep, doorErr := b.findDoorstep()
	if err := errors.Join(idErr, doorErr); err != nil {
		unlock(lock)
		return nil, err
	}
	return &place{
		number: number,
		id:     fmt.Sprintf("%s-%d", id, number),
		dir:    filepath.Join(builds, strconv.Itoa(number)),

		executors: filepath.Join(b.Dir, "executors"),
		doorstep:  doorstep,
		runtime:   b.runtime(),
		lock:      lock,
	}, nil
}

// dirID tells work directories on one machine apart.
func dirID(dir string) (string, error) {
	var stat unix.Stat_t
	if err := unix.Stat(dir, &stat); err != nil {
		return "", fmt.Errorf("work directory %s: %w", dir, err)
	}
	sum := sha256.Sum256(fmt.Appendf(nil, "%d %d", stat.Dev, stat.Ino))
	return fmt.Sprintf("%x", sum[:6]), nil
}

// directory is one of those that a build has.
type directory struct {
	path  string
	mode  fs.FileMode
	owner uint32
}

func (p *place) directories() []directory {
	return []directory{
		{p.dir, 0o700, 0},
		{p.path("private"), 0o700, 0},
		{p.path("private", "tmp"), 0o700, 0},
		{p.path("box"), 0o700, p.firstID},
		{p.path("box", "root"), 0o755, p.firstID},
		{p.path("box", "out"), 0o755, p.firstID},
		{p.path("box", "context"), 0o755, p.firstID},
		{p.path("box", "bases"), 0o755, p.firstID},
		{p.path("box", "certs"), 0o755, p.firstID},
	}
}

// make lays the directories out.
func (p *place) make() error {
	for _, dir := range p.directories() {
		if err := os.Mkdir(dir.path, 0o700); err != nil {
			return err
		}
		if err := os.Chown(dir.path, int(dir.owner), int(dir.owner)); err != nil {
			return err
		}
		if err := os.Chmod(dir.path, dir.mode); err != nil {
			return err
		}
	}
	return nil
}

// doorsteps are directories over which a box may be mounted for the runtime. The root
// user of a build is an ordinary user out here, who could not pass through the private
// directories above its box; a doorstep is right below / and open. It is a mount in a
// namespace that only the runtime is in, over a directory that every system has:
// nothing of it shows outside, and nothing is left when the runtime ends.
var doorsteps = []string{"/mnt", "/media", "/srv", "/opt"}

// findDoorstep is the first of doorsteps below which lies nothing that the runtime
// needs.
func (b *Builder) findDoorstep() (string, error) {
	needed := []string{b.Dir}
	if runtime, err := exec.LookPath(b.runtime()); err == nil {
		needed = append(needed, runtime)
	}
	for i, path := range needed {
		absolute, err := filepath.Abs(path)
		if err != nil {
			return "", err
		}
		if needed[i], err = filepath.EvalSymlinks(absolute); err != nil {
			return "", err
		}
	}
	for _, doorstep := range doorsteps {
		info, err := os.Lstat(doorstep)
		if err != nil || !info.IsDir() {
			continue
		}
		if !slices.ContainsFunc(needed, func(path string) bool { return strings.HasPrefix(path, doorstep+"/") }) {
			return doorstep, nil
		}
	}
	return "", hinted{
		fmt.Errorf("none of %s is a directory that the sandbox could mount builds over, for the runtime alone", strings.Join(doorsteps, ", ")),
		"mkdir " + doorsteps[0],
	}
}

// inBox is a path in the box as the runtime sees it.
func (p *place) inBox(elements ...string) string {
	return filepath.Join(append([]string{p.doorstep, "box"}, elements...)...)
}

// mountBox gives the calling thread, and what it starts, a view of the file
// system with the box and the executors at the doorstep.
func (p *place) mountBox() error {
	mount := func(source, target, kind string, flags uintptr, data string) error {
		if err := unix.Mount(source, target, kind, flags, data); err != nil {
			return fmt.Errorf("mount %s for the container runtime: %w", target, err)
		}
		return nil
	}
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("make mount namespace: %w", err)
	}
	if err := mount("", "/", "", unix.MS_SLAVE|unix.MS_REC, ""); err != nil {
		return err
	}
	if err := mount("tmpfs", p.doorstep, "tmpfs", unix.MS_NOSUID|unix.MS_NODEV, "mode=755,size=64k"); err != nil {
		return err
	}
	for name, dir := range map[string]string{"box": p.path("box"), "executors": p.executors} {
		target := filepath.Join(p.doorstep, name)
		if err := os.Mkdir(target, 0o755); err != nil {
			return err
		}
		if err := mount(dir, target, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		if err := mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_NOSUID|unix.MS_NODEV, ""); err != nil {
			return err
		}
	}
	return nil
}

// clear ends what runs in the place and removes its directory. It knows no
// context: half a clean-up helps nobody. It takes some seconds at most, unless
// a disk hangs.
func (p *place) clear() error {
	if err := p.kill(); err != nil {
		return err
	}
	return removeTree(p.dir)
}

// kill ends the container, whatever state it is in.
func (p *place) kill() error {
	if p.isAnothers() && p.sharesName() {
		return nil // who has the place now has ended ours, and what goes by our name is theirs
	}
	state := p.path("private", "state")
	if _, err := os.Stat(filepath.Join(state, p.id)); err == nil {
		ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
		defer cancel()
		// The runtime's own clean-up first. What it cannot do, the cgroup can: a
		// container that was killed half made has a state it does not understand.
		cmd := exec.CommandContext(ctx, p.runtime, "--root", state, "delete", "--force", p.id)
		cmd.Env = []string{"PATH=" + os.Getenv("PATH")}
		_ = cmd.Run()
	}
	return cgroup{p.id}.remove()
}

// release clears the place and gives it up.
func (p *place) release() error {
	defer p.unlock()
	if p.isAnothers() {
		return p.kill()
	}
	return p.clear()
}

// unlock gives up the range first: no build has a number without one.
func (p *place) unlock() {
	if p.ids != nil {
		unlock(p.ids)
	}
	unlock(p.lock)
}

// unlock gives up all locks of an open file. Closing it would do in the end, but a
// program that is being started at this moment may hold it for a little longer.
func unlock(file *os.File) {
	_ = unix.Flock(int(file.Fd()), unix.LOCK_UN)
	_ = unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_UNLCK}) // of length 0: to its end
	file.Close()
}
