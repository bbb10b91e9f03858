// Package events tells Flux's notification-controller what became of images:
// built, promoted, proposed, refused, failed, held, recovered.
//
// Each is told once, when it comes to be, and to one GitRepository: the object
// of Flux that watches the target, since an Alert selects by the kinds that
// Flux has. What concerns a source commit carries its hash, so that the git
// providers of notification-controller set a status on that commit.
//
// The package makes events from a round's Outcome and from nothing else. It
// knows no cluster and no credential. Events are sent in the background, by
// HTTP POST: telling neither fails nor delays what is told about, and what
// cannot be told for some minutes is dropped. Texts from commits and builds are
// data: cut, on lines of their own, and defused.
package events

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"time"

	eventv1 "github.com/fluxcd/pkg/apis/event/v1beta1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"towpath.dev/towpath/gitops"
	"towpath.dev/towpath/gitops/bump"
	"towpath.dev/towpath/reconcile"
)

// Reasons of events. A git provider shows them, split into words and in lower
// case, as the description of a commit's status: "build failed".
const (
	ImageBuilt    = "ImageBuilt"
	BuildFailed   = "BuildFailed"
	Promoted      = "Promoted"
	Proposed      = "Proposed"
	CommitRefused = "CommitRefused"
	Failed        = "Failed"
	Held          = "Held"
	Recovered     = "Recovered"
)

// Keys of an event's metadata, which notification-controller shows without the
// prefix, and which an Alert's expressions read as event.metadata.KEY.
const (
	keyCommit = eventv1.Group + "/" + eventv1.MetaCommitKey // of the source: what a status is set on
	keyImage  = eventv1.Group + "/image"
	keyTarget = eventv1.Group + "/target"
	keySource = eventv1.Group + "/source"
	keyRef    = eventv1.Group + "/ref"
	keyBump   = eventv1.Group + "/bump"
	// keyToken goes into what notification-controller tells duplicates by, and
	// is shown to nobody: two copies of Towpath that tell the same thing are
	// heard once, and the same words about another thing are heard.
	keyToken = "source.toolkit.fluxcd.io/" + eventv1.MetaTokenKey
)

// controller is who Flux's users see events from.
const controller = "towpath"

// told is one thing to be told.
type told struct {
	reason  string
	message string
	commit  string // of the source, where it is about that
	wrong   bool   // a person has to look
}

// event is what notification-controller is sent.
func (t told) event(o reconcile.Outcome, about types.NamespacedName, instance string, now time.Time) eventv1.Event {
	metadata := map[string]string{keyImage: o.Image, keyTarget: o.Target}
	for key, value := range map[string]string{keyCommit: t.commit, keySource: o.Source, keyRef: o.Ref, keyBump: o.Bump} {
		if value != "" {
			metadata[key] = value
		}
	}
	token := sha256.Sum256(fmt.Appendf(nil, "%s\n%s\n%s\n%s\n%s", t.reason, o.Image, o.Target, t.commit, o.Bump))
	metadata[keyToken] = hex.EncodeToString(token[:16])
	severity := eventv1.EventSeverityInfo
	if t.wrong {
		severity = eventv1.EventSeverityError
	}
	return eventv1.Event{
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "source.toolkit.fluxcd.io/v1", Kind: "GitRepository", Namespace: about.Namespace, Name: about.Name,
		},
		Severity: severity, Reason: t.reason, Message: t.message, Metadata: metadata,
		Timestamp: metav1.NewTime(now.UTC()), ReportingController: controller, ReportingInstance: instance,
	}
}

// Bounds on what a message holds, far below the 39,000 characters that Flux
// allows: it is read in a chat.
const (
	maxSubject = 120
	maxReason  = 1000
	maxLine    = 300
	maxLines   = 20
)

// commitOf names a source commit for people.
func commitOf(hash, subject string) string {
	text := hash[:min(len(hash), 8)]
	if subject != "" {
		text += " " + defused(subject, maxSubject)
	}
	return text
}

// What concerns a source commit begins with the image's name and a colon; what
// concerns a delivery and no commit with "IMAGE → TARGET:". The document says
// so, for an Alert's inclusionList.

func built(o reconcile.Outcome) told {
	return told{reason: ImageBuilt, commit: o.Commit, message: fmt.Sprintf("%s: built %s in %s: %s",
		o.Image, commitOf(o.Commit, o.Subject), o.Build.Took().Round(time.Second), o.Ref)}
}

func buildFailed(o reconcile.Outcome) told {
	var text strings.Builder
	fmt.Fprintf(&text, "%s: build failed at %s: %s", o.Image, commitOf(o.Commit, o.Subject), defused(strings.TrimPrefix(o.Reason, "build: "), maxReason)) // it holds lines of the Dockerfile
	for _, line := range o.Output[max(0, len(o.Output)-maxLines):] {
		text.WriteString("\n| " + defused(line, maxLine))
	}
	if o.Hint != "" {
		text.WriteString("\n" + plain(o.Hint, maxReason))
	}
	return told{reason: BuildFailed, commit: o.Commit, wrong: true, message: text.String()}
}

func promoted(o reconcile.Outcome) told {
	text := fmt.Sprintf("%s: promoted %s to %s", o.Image, commitOf(o.Commit, o.Subject), o.Target)
	reason := Promoted
	if o.Branch != "" && o.Pushed == "" {
		reason = Proposed
		text = fmt.Sprintf("%s: proposed for review on branch %s of %s: %s", o.Image, plain(o.Branch, maxLine), o.Target, commitOf(o.Commit, o.Subject))
	}
	if o.Bump != "" {
		text += ": bump " + commitOf(o.Bump, "")
	}
	if o.Ref != "" {
		text += ", " + o.Ref
	}
	return told{reason: reason, commit: o.Commit, message: text}
}

func refused(o reconcile.Outcome, commit, why string) told {
	text := fmt.Sprintf("%s: refused %s: %s", o.Image, commitOf(commit, ""), plain(why, maxReason))
	if o.Hint != "" {
		text += "\n" + plain(o.Hint, maxReason)
	}
	return told{reason: CommitRefused, commit: commit, wrong: true, message: text}
}

// stands tells of a delivery as a whole.
func stands(o reconcile.Outcome, reason, how string, wrong bool) told {
	text := fmt.Sprintf("%s → %s: %s: %s", o.Image, o.Target, how, plain(o.Reason, maxReason))
	for _, problem := range o.Problems[:min(len(o.Problems), maxLines)] {
		text += "\n" + plain(problem, maxLine)
	}
	if o.Hint != "" {
		text += "\n" + plain(o.Hint, maxReason)
	}
	return told{reason: reason, wrong: wrong, message: text}
}

// mention takes apart what chats read as a call to everybody: "<!channel>".
var mention = strings.NewReplacer("<!", "< !", "<@", "< @", "<#", "< #")

// plain makes one harmless line.
func plain(text string, limit int) string { return mention.Replace(gitops.Line(text, limit)) }

// defused makes one harmless line of what a commit's author or a build wrote:
// some providers write it into a forge's comment.
func defused(text string, limit int) string { return mention.Replace(bump.Defuse(text, limit)) }
