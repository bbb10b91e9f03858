package console_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"towpath.dev/towpath/kaniko/console"
)

func plain(t testing.TB, chunks ...[]byte) string {
	t.Helper()
	var out bytes.Buffer
	p := &console.Plain{To: &out}
	for _, chunk := range chunks {
		if n, err := p.Write(chunk); n != len(chunk) || err != nil {
			t.Fatalf("wrote %d of %d bytes, %v", n, len(chunk), err)
		}
	}
	if err := p.Flush(); err != nil {
		t.Fatal(err)
	}
	return out.String()
}

// bytewise is the text a byte at a time, as pipes may deliver it.
func bytewise(text []byte) [][]byte {
	var chunks [][]byte
	for i := range text {
		chunks = append(chunks, text[i:i+1])
	}
	return chunks
}

func TestPlain(t *testing.T) {
	t.Parallel()
	long := strings.Repeat("x", 40_000)
	for in, want := range map[string]string{
		"":                                 "",
		"one\n\n\ttwo\n":                   "one\n\n\ttwo\n",
		"no end":                           "no end\n",
		"dos\r\nunix\n":                    "dos\nunix\n",
		" 10%\r 50%\r100%\ndone\n":         "100%\ndone\n",
		"10%\r":                            "10%\n",
		"\x1b[1;31mred\x1b[0m\n":           "red\n",
		"\x1b]0;title\x07text\n":           "text\n",
		"\x1b]52;c;Y2FuYXJ5\x1b\\text\n":   "text\n",
		"\x1b(Bcharset\x1b7\n":             "charset\n",
		"\x1b]never ends\nnext\n":          "\nnext\n",
		"\x1b[12\nnext\n":                  "\nnext\n",
		"bell\x07 back\x08 null\x00\n":     "bell back null\n",
		"\u202ertl \u0085 c1 \u009b31m\n":  "rtl  c1 31m\n",
		"grün € 😀\n":                       "grün € 😀\n",
		"broken \xff\xe2\x82\nnext \xe2\n": "broken ???\nnext ?\n",
		"cut \xe2\x82":                     "cut ??\n",
		long + "\n":                        long + "\n",
		long + "\rover\n":                  long + "\nover\n",
	} {
		if got := plain(t, []byte(in)); got != want {
			t.Errorf("%.80q: got %.80q, want %.80q", in, got, want)
		}
		if got := plain(t, bytewise([]byte(in))...); got != want {
			t.Errorf("%.80q, a byte at a time: got %.80q, want %.80q", in, got, want)
		}
	}
}

// TestPlainHoldsLittle: an endless line is passed on as it comes.
func TestPlainHoldsLittle(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	p := &console.Plain{To: &out}
	for range 1000 {
		fmt.Fprint(p, strings.Repeat("x", 1000))
	}
	if out.Len() < 900_000 {
		t.Errorf("%d of 1000000 bytes were passed on", out.Len())
	}
}

func FuzzPlain(f *testing.F) {
	f.Add([]byte("\x1b[31mred\x1b]0;t\x07\xff\r10%\r\n"))
	f.Fuzz(func(t *testing.T, in []byte) {
		got := plain(t, in)
		if !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool {
			return r != '\n' && r != '\t' && unicode.Is(unicode.C, r) || r == '\u2028' || r == '\u2029'
		}) {
			t.Errorf("%q became %q", in, got)
		}
		if again := plain(t, bytewise(in)...); again != got {
			t.Errorf("%q became %q, and %q a byte at a time", in, got, again)
		}
		if again := plain(t, []byte(got)); again != got {
			t.Errorf("%q becomes %q the second time", got, again)
		}
		if strings.Count(got, "\n") < bytes.Count(in, []byte("\n")) {
			t.Errorf("%q lost lines: %q", in, got)
		}
	})
}
