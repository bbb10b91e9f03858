package store

import (
	"context"
	"fmt"

	"github.com/go-git/go-git/v5/plumbing"
)

// resolve names the objects that are packed as deltas, from each base upwards.
func (u *unpacking) resolve(ctx context.Context) error {
	p := &pack{size: u.size, file: u.file}
	named := 0
	for i := range u.entries {
		if u.entries[i].typ.IsDelta() {
			continue
		}
		named++
		if u.entries[i].child == 0 && len(u.waiting[u.entries[i].hash]) == 0 {
			continue
		}
		n, err := u.resolveOn(ctx, p, i)
		if err != nil {
			return err
		}
		named += n
	}
	if named != len(u.entries) {
		return fmt.Errorf("%w: %d of its objects are deltas on objects that it does not hold", errPack, len(u.entries)-named)
	}
	return nil
}

// base is an object that deltas still wait for.
type base struct {
	number  int  // of the entry
	content body // none: let go, to be made again
	waiting []uint32
	next    uint32 // of the list of children
}

// bases are those from the root of a chain of deltas up, each on the one before.
type bases struct {
	room          room
	list          []base
	memory, files int64 // of their contents
}

// put takes a content in, and lets the lowest ones go where it becomes too much.
func (b *bases) put(at int, content body) {
	b.list[at].content = content
	b.count(content, 1)
	for i := 0; (b.memory > b.room.memory || b.files > b.room.files) && i < len(b.list)-1; i++ {
		if i != at {
			b.letGo(i)
		}
	}
}

func (b *bases) letGo(at int) {
	b.count(b.list[at].content, -1)
	b.list[at].content.drop()
}

func (b *bases) count(content body, sign int64) {
	if content.file != nil {
		b.files += sign * content.size
	} else if content.bytes != nil {
		b.memory += sign * content.size
	}
}

func (b *bases) pop() {
	b.letGo(len(b.list) - 1)
	b.list = b.list[:len(b.list)-1]
}

// resolveOn names everything that stands on the entry root, depth first, so
// that few bases are held at a time.
func (u *unpacking) resolveOn(ctx context.Context, p *pack, root int) (named int, err error) {
	typ := u.entries[root].typ
	content, err := u.whole(p, root)
	if err != nil {
		return 0, err
	}
	held := bases{room: u.room}
	defer func() {
		for len(held.list) > 0 {
			held.pop()
		}
	}()
	push := func(number int, content body) {
		hash := u.entries[number].hash
		held.list = append(held.list, base{number: number, waiting: u.waiting[hash], next: u.entries[number].child})
		delete(u.waiting, hash)
		held.put(len(held.list)-1, content)
	}
	push(root, content)
	for len(held.list) > 0 {
		if err := ctx.Err(); err != nil {
			return named, err
		}
		last := len(held.list) - 1
		top := &held.list[last]
		var number int
		switch {
		case top.next != 0:
			number = int(top.next) - 1
			top.next = u.entries[number].sibling
		case len(top.waiting) > 0:
			number = int(top.waiting[0]) - 1
			top.waiting = top.waiting[1:]
		default:
			held.pop()
			continue
		}
		if len(held.list) > maxChain {
			return named, fmt.Errorf("%w: more than %d deltas stand on each other", errPack, maxChain)
		}
		if !top.content.there() {
			content, err := u.again(ctx, p, typ, held.list)
			if err != nil {
				return named, err
			}
			held.put(last, content)
		}
		keep := u.entries[number].child != 0 || len(u.waiting) > 0
		made, hash, err := u.patch(p, number, typ, &top.content, keep)
		if err != nil {
			return named, fmt.Errorf("object at byte %d: %w", u.entries[number].offset, err)
		}
		if err := u.needs.add(typ, hash, made.bytes); err != nil {
			made.drop()
			return named, err
		}
		u.entries[number].hash = hash
		named++
		if u.entries[number].child != 0 || len(u.waiting[hash]) > 0 {
			push(number, made)
		} else {
			made.drop()
		}
	}
	return named, nil
}

// again makes the last object of a chain of bases, each a delta on the one before,
// from the newest that is still there.
func (u *unpacking) again(ctx context.Context, p *pack, typ plumbing.ObjectType, chain []base) (content body, err error) {
	from := len(chain) - 1
	for from > 0 && !chain[from].content.there() {
		from--
	}
	// What is held is the chain's, what is made on the way is ours.
	content = chain[from].content
	if !content.there() {
		if content, err = u.whole(p, chain[from].number); err != nil {
			return body{}, err
		}
	}
	ours := !chain[from].content.there()
	for _, b := range chain[from+1:] {
		next, _, err := u.patch(p, b.number, typ, &content, true)
		if ours {
			content.drop()
		}
		if err == nil {
			err = ctx.Err()
		}
		if err != nil {
			next.drop()
			return body{}, err
		}
		content, ours = next, true
	}
	return content, nil
}
