package seal_test

import (
	"runtime"
	"sync"
	"testing"

	"towpath.dev/towpath/kaniko/seal"
)

// TestDecryptionLeavesNoMemory: not parallel, since it looks at the whole
// process.
func TestDecryptionLeavesNoMemory(t *testing.T) {
	pair, err := seal.NewKeyPair([]byte("password"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := seal.LoadKey(pair); err != nil {
		t.Fatal(err)
	}
	var after runtime.MemStats
	runtime.ReadMemStats(&after)
	if kept := after.HeapSys - after.HeapReleased; kept > 40<<20 {
		t.Errorf("%d MiB stay with the process", kept>>20)
	}
}

// TestOneDecryptionForAllImages: a key costs its tenth of a second once, and
// again when its secret changed.
func TestOneDecryptionForAllImages(t *testing.T) {
	t.Parallel()
	pair, err := seal.NewKeyPair([]byte("password"))
	if err != nil {
		t.Fatal(err)
	}
	ring := &seal.Ring{}
	keys := make([]*seal.Key, 20)
	var all sync.WaitGroup
	for i := range keys {
		all.Go(func() {
			var err error
			if keys[i], err = ring.Load(pair); err != nil {
				t.Error(err)
			}
		})
	}
	all.Wait()
	for _, key := range keys {
		if key == nil || key != keys[0] {
			t.Fatal("one secret was decrypted more than once")
		}
	}
	wrong := map[string][]byte{"cosign.key": pair["cosign.key"], "cosign.password": []byte("other")}
	if _, err := ring.Load(wrong); err == nil {
		t.Error("another password opened the key that was open before")
	}
	rotated, err := seal.NewKeyPair([]byte("password"))
	if err != nil {
		t.Fatal(err)
	}
	if key, err := ring.Load(rotated); err != nil || key.Fingerprint() == keys[0].Fingerprint() {
		t.Errorf("the key of before is used on: %v", err)
	}
}
