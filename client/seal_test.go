package client_test

import (
	"bytes"
	"crypto/ecdh"
	"crypto/rand"
	"testing"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
)

func TestSeal(t *testing.T) {
	t.Parallel()
	newKey := func() *ecdh.PrivateKey {
		key, err := ecdh.X25519().GenerateKey(rand.Reader)
		if err != nil {
			t.Fatal(err)
		}
		return key
	}
	key := newKey()
	to := client.SealedFor{Host: millrace.HostID{1}, VM: millrace.VMID{2}, Epoch: 1}
	sealed, err := client.Seal(key.PublicKey().Bytes(), to, []byte("config"))
	if err != nil {
		t.Fatal(err)
	}
	if plain, err := client.Open(key, to, sealed); err != nil || string(plain) != "config" {
		t.Fatalf("got %q, %v", plain, err)
	}
	if bytes.Contains(sealed, []byte("config")) {
		t.Error("the sealed text is readable")
	}
	with := func(change func(*client.SealedFor)) client.SealedFor {
		other := to
		change(&other)
		return other
	}
	flipped := bytes.Clone(sealed)
	flipped[len(flipped)-1] ^= 1
	for name, try := range map[string]struct {
		key    *ecdh.PrivateKey
		to     client.SealedFor
		sealed []byte
	}{
		"another key":   {newKey(), to, sealed},
		"another host":  {key, with(func(s *client.SealedFor) { s.Host = millrace.HostID{9} }), sealed},
		"another VM":    {key, with(func(s *client.SealedFor) { s.VM = millrace.VMID{9} }), sealed},
		"another epoch": {key, with(func(s *client.SealedFor) { s.Epoch = 2 }), sealed},
		"changed":       {key, to, flipped},
		"cut":           {key, to, sealed[:20]},
		"empty":         {key, to, nil},
	} {
		if plain, err := client.Open(try.key, try.to, try.sealed); err == nil {
			t.Errorf("%s opened it: %q", name, plain)
		}
	}
	if _, err := client.Seal(make([]byte, 31), to, nil); err == nil {
		t.Error("a short key was accepted")
	}
}
