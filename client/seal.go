package client

import (
	"crypto/ecdh"
	"crypto/hpke"
	"encoding/binary"
	"fmt"

	"github.com/millrace-ci/millrace"
)

// SealedFor names the one reader of a sealed JIT config: one VM of one host in one of the VM's epochs.
type SealedFor struct {
	Host  millrace.HostID
	VM    millrace.VMID
	Epoch int64 // the VM's
}

// Seal encrypts plain so that only the holder of key, the host's X25519 public key, can read it, and only as what it
// was sealed for: HPKE (RFC 9180) base mode with DHKEM(X25519, HKDF-SHA256), HKDF-SHA256 and ChaCha20-Poly1305. The
// info string is "millrace-jit-v1", host, VM and epoch, each text led by its length in two bytes, the epoch in eight.
func Seal(key []byte, to SealedFor, plain []byte) ([]byte, error) {
	pub, err := hpke.DHKEM(ecdh.X25519()).NewPublicKey(key)
	if err != nil {
		return nil, fmt.Errorf("client: the host's seal key: %w", err)
	}
	return hpke.Seal(pub, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), to.info(), plain)
}

// Open decrypts what [Seal] made; key is the host's X25519 private key.
func Open(key *ecdh.PrivateKey, to SealedFor, sealed []byte) ([]byte, error) {
	priv, err := hpke.NewDHKEMPrivateKey(key)
	if err != nil {
		return nil, fmt.Errorf("client: the host's seal key: %w", err)
	}
	return hpke.Open(priv, hpke.HKDFSHA256(), hpke.ChaCha20Poly1305(), to.info(), sealed)
}

func (to SealedFor) info() []byte {
	var b []byte
	for _, s := range []string{"millrace-jit-v1", to.Host.String(), to.VM.String()} {
		b = binary.BigEndian.AppendUint16(b, uint16(len(s)))
		b = append(b, s...)
	}
	return binary.BigEndian.AppendUint64(b, uint64(to.Epoch))
}
