package fleet

import (
	"bytes"
	"cmp"
	"maps"
	"slices"

	"towpath.dev/towpath/gitops"
)

// weigh chooses which files are parsed. Where all of them together are heavier than
// the scanner's limit, the largest are left alone, so that no tree costs more than some
// seconds, whoever made it. The choice depends on the tree alone: every copy of Towpath
// leaves the same files alone.
func (s *scanner) weigh(marked []node) (light, heavy []node) {
	weights, total := map[gitops.Hash]int{}, 0
	for _, n := range marked {
		b := s.blobs[n.hash]
		more := perMarker * b.marks
		if _, counted := weights[n.hash]; !counted {
			more += b.weight
		}
		weights[n.hash] += more
		total += more
	}
	if total <= s.limit {
		return marked, nil
	}
	largest := slices.SortedFunc(maps.Keys(weights), func(a, b gitops.Hash) int {
		return cmp.Or(weights[b]-weights[a], bytes.Compare(a[:], b[:]))
	})
	for _, h := range largest {
		if total <= s.limit {
			break
		}
		total -= weights[h]
		delete(weights, h)
	}
	for _, n := range marked {
		if _, small := weights[n.hash]; small {
			light = append(light, n)
		} else {
			heavy = append(heavy, n)
		}
	}
	return light, heavy
}
