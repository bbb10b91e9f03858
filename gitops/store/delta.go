package store

import (
	"errors"
	"math/bits"
)

var errDelta = errors.New("malformed delta")

// deltaSizes reads a delta's header: how long its base must be, and how long
// what it makes will be (git's pack-format(5), "Deltified representation").
func deltaSizes(delta []byte) (base, target int64, rest []byte, err error) {
	base, rest, ok := deltaSize(delta)
	if ok {
		target, rest, ok = deltaSize(rest)
	}
	if !ok {
		return 0, 0, nil, errDelta
	}
	return base, target, rest, nil
}

func deltaSize(b []byte) (size int64, rest []byte, ok bool) {
	for shift := 0; shift < 56; shift += 7 {
		if len(b) == 0 {
			return 0, nil, false
		}
		size |= int64(b[0]&0x7f) << shift
		more := b[0]&0x80 != 0
		b = b[1:]
		if !more {
			return size, b, true
		}
	}
	return 0, nil, false
}

// makes is how many bytes a delta's operations make in all. It counts no further than
// just past the limit. Whether the operations are well-formed is for applyDelta to find
// out.
func makes(ops []byte, limit int64) (total int64) {
	for at := 0; at < len(ops) && total <= limit; {
		op := ops[at]
		at++
		if op&0x80 == 0 {
			total += int64(op)
			at += int(op)
			continue
		}
		at += bits.OnesCount8(op & 0x0f)
		size := 0
		for i := range 3 {
			if op&(0x10<<i) != 0 {
				if at < len(ops) {
					size |= int(ops[at]) << (8 * i)
				}
				at++
			}
		}
		if size == 0 {
			size = 0x10000
		}
		total += int64(size)
	}
	return total
}

// applyDelta makes an object of at most limit bytes from its base.
func applyDelta(base, delta []byte, limit int64) ([]byte, error) {
	baseSize, targetSize, ops, err := deltaSizes(delta)
	if err != nil {
		return nil, err
	}
	if baseSize != int64(len(base)) {
		return nil, errDelta
	}
	if targetSize > limit {
		return nil, errTooLarge
	}
	// A delta claims its target's size before it makes anything; the claim
	// alone shall not take memory, nor shall growing towards it.
	if makes(ops, targetSize) != targetSize {
		return nil, errDelta
	}
	target := make([]byte, 0, targetSize)
	for len(ops) > 0 {
		op := ops[0]
		ops = ops[1:]
		switch {
		case op == 0:
			return nil, errDelta
		case op&0x80 == 0: // the next op bytes themselves
			if int(op) > len(ops) {
				return nil, errDelta
			}
			target = append(target, ops[:op]...)
			ops = ops[op:]
		default: // a part of the base
			var offset, size uint32
			for i := range 4 {
				if op&(1<<i) != 0 {
					if len(ops) == 0 {
						return nil, errDelta
					}
					offset |= uint32(ops[0]) << (8 * i)
					ops = ops[1:]
				}
			}
			for i := range 3 {
				if op&(0x10<<i) != 0 {
					if len(ops) == 0 {
						return nil, errDelta
					}
					size |= uint32(ops[0]) << (8 * i)
					ops = ops[1:]
				}
			}
			if size == 0 {
				size = 0x10000
			}
			if uint64(offset)+uint64(size) > uint64(len(base)) {
				return nil, errDelta
			}
			target = append(target, base[offset:uint64(offset)+uint64(size)]...)
		}
		if int64(len(target)) > targetSize {
			return nil, errDelta
		}
	}
	if int64(len(target)) != targetSize {
		return nil, errDelta
	}
	return target, nil
}
