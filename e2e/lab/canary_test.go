package lab_test

import (
	"bytes"
	"compress/gzip"
	"encoding/base64"
	"encoding/hex"
	"net/url"
	"testing"

	"towpath.dev/towpath/e2e/lab"
)

// TestCanariesAreFound: a search that finds nothing must be able to find.
func TestCanariesAreFound(t *testing.T) {
	t.Parallel()
	secret := "s3cret/with+odd=letters"
	var canaries lab.Canaries
	canaries.Plant(t, "the secret", []byte(secret))
	var packed bytes.Buffer
	writer := gzip.NewWriter(&packed)
	if _, err := writer.Write([]byte("before " + secret + " after")); err != nil {
		t.Fatal(err)
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	texts := []string{
		secret, "a\n" + secret + "b", url.QueryEscape(secret), hex.EncodeToString([]byte(secret)), packed.String(),
	}
	for _, user := range []string{"", "a", "ab", "abc"} {
		texts = append(texts, base64.StdEncoding.EncodeToString([]byte(user+":"+secret)), base64.URLEncoding.EncodeToString([]byte(user+secret+"tail")))
	}
	for _, text := range texts {
		if len(canaries.In([]byte(text))) == 0 {
			t.Errorf("not found in %q", text)
		}
	}
	if found := canaries.In([]byte("nothing of it here")); len(found) > 0 {
		t.Errorf("found %v", found)
	}
}
