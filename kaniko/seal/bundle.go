package seal

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/secure-systems-lab/go-securesystemslib/dsse"
	protobundle "github.com/sigstore/protobuf-specs/gen/pb-go/bundle/v1"
	protocommon "github.com/sigstore/protobuf-specs/gen/pb-go/common/v1"
	protodsse "github.com/sigstore/protobuf-specs/gen/pb-go/dsse"
	"google.golang.org/protobuf/encoding/protojson"
)

const (
	bundleMediaType = "application/vnd.dev.sigstore.bundle.v0.3+json"
	payloadType     = "application/vnd.in-toto+json"
)

// ErrNotOurs is a seal that says nothing to us: signed by a key that we do not
// know, about another image, or of another kind.
var ErrNotOurs = errors.New("not a seal of ours")

// sealed makes a Sigstore bundle of a statement: a DSSE envelope, signed, with
// the public key named by its hash and neither certificate nor log entry.
func (k *Key) sealed(statement *Statement) ([]byte, error) {
	payload, err := statement.JSON()
	if err != nil {
		return nil, err
	}
	signature, err := k.sign(dsse.PAE(payloadType, payload))
	if err != nil {
		return nil, fmt.Errorf("sign provenance: %w", err)
	}
	encoded, err := protojson.Marshal(&protobundle.Bundle{
		MediaType: bundleMediaType,
		VerificationMaterial: &protobundle.VerificationMaterial{
			Content: &protobundle.VerificationMaterial_PublicKey{
				PublicKey: &protocommon.PublicKeyIdentifier{Hint: hint(&k.private.PublicKey)},
			},
		},
		Content: &protobundle.Bundle_DsseEnvelope{DsseEnvelope: &protodsse.Envelope{
			Payload:     payload,
			PayloadType: payloadType,
			Signatures:  []*protodsse.Signature{{Sig: signature}},
		}},
	})
	if err != nil {
		return nil, fmt.Errorf("encode provenance: %w", err)
	}
	// protojson puts spaces in at random, so that nobody relies on its bytes.
	var compact bytes.Buffer
	if err := json.Compact(&compact, encoded); err != nil {
		return nil, fmt.Errorf("encode provenance: %w", err)
	}
	return compact.Bytes(), nil
}

// Open verifies a bundle: the signature by a key of ours, present or former,
// then what it says, about the image with this digest. Anything else is
// ErrNotOurs with the reason.
func (k *Key) Open(bundle []byte, digest string) (*Statement, error) {
	refuse := func(reason string) (*Statement, error) { return nil, fmt.Errorf("%w: %s", ErrNotOurs, reason) }
	var parsed protobundle.Bundle
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(bundle, &parsed); err != nil {
		return refuse("it is no Sigstore bundle")
	}
	envelope := parsed.GetDsseEnvelope()
	switch {
	case parsed.GetMediaType() != bundleMediaType:
		return refuse("it is another version of a bundle")
	case envelope == nil || envelope.GetPayloadType() != payloadType:
		return refuse("it holds no in-toto statement")
	case len(envelope.GetSignatures()) != 1:
		return refuse("it does not hold one signature")
	}
	if k.signer(dsse.PAE(payloadType, envelope.GetPayload()), envelope.GetSignatures()[0].GetSig()) == nil {
		return refuse("no key of ours signed it")
	}
	var statement Statement
	if err := json.Unmarshal(envelope.GetPayload(), &statement); err != nil {
		return refuse("what our key signed is no provenance")
	}
	if !statement.about(digest) {
		return refuse("what our key signed is not our provenance of " + digest)
	}
	return &statement, nil
}
