package api

import (
	"cmp"
	"crypto/ed25519"
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode"

	"github.com/go-chi/chi/v5"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/store"
)

// Bounds of what an agent sends.
const (
	maxAgentBody = 4 << 20
	maxConsole   = 256 << 10
	maxSamples   = 256 << 10
	maxHostName  = 63
	maxBootID    = 64
	maxLeaked    = 3 // tokens that one address may have revoked
)

// leakedToken is what looks like an enrollment token.
var leakedToken = regexp.MustCompile(millrace.EnrollmentTokenPrefix + `[0-9A-Za-z]{38}`)

func (s *Server) enroll(w http.ResponseWriter, r *http.Request) error {
	from := fromOf(r)
	if query := r.URL.RawQuery; query != "" {
		for _, leaked := range leakedToken.FindAllString(query, maxLeaked) {
			if err := s.store.RevokeLeaked(r.Context(), from, leaked); err != nil {
				return err
			}
		}
		return millrace.Errorf(millrace.Invalid, "A token in an address ends up in logs: it is revoked. Make another one, and send it in the body.")
	}
	body, err := readBody(w, r, maxAgentBody)
	if err != nil {
		return err
	}
	var in client.EnrollRequest
	if err := decode(body, &in); err != nil {
		return err
	}
	if len(in.SignKey) != ed25519.PublicKeySize || len(in.SealKey) != 32 {
		return errKeys
	}
	if err := checkName(in.Name); err != nil {
		return err
	}
	if err := checkFacts(in.Facts); err != nil {
		return err
	}
	in.Facts.Findings = findings(in.Facts.Findings)
	host, slug, err := s.store.EnrollHost(r.Context(), from, store.Enrollment{Secret: in.Token, Name: in.Name, SignKey: in.SignKey, SealKey: in.SealKey, Facts: in.Facts})
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusCreated, client.EnrollResponse{HostID: host.ID, Org: slug, Epoch: host.Epoch, ServerTime: s.now()})
	return nil
}

// fromOf is where a request came from; who made it is known later.
func fromOf(r *http.Request) millrace.Actor {
	return millrace.Actor{Address: address(r.RemoteAddr), RequestID: requestID(r.Context())}
}

func checkName(name string) error {
	if name == "" || len(name) > maxHostName || strings.ContainsFunc(name, func(c rune) bool { return unicode.IsControl(c) || unicode.IsSpace(c) }) {
		return millrace.Errorf(millrace.Unprocessable, "A host's name has 1 to %d characters without spaces; %q has not.", maxHostName, name)
	}
	return nil
}

func checkFacts(f millrace.HostFacts) error {
	const large = 1 << 30
	switch {
	case f.Arch != millrace.AMD64 && f.Arch != millrace.ARM64:
		return millrace.Errorf(millrace.Unprocessable, "A host's architecture is amd64 or arm64, not %q.", f.Arch)
	case len(f.Emulates) > 1 || slices.Contains(f.Emulates, f.Arch) || len(f.Emulates) == 1 && f.Emulates[0] != millrace.AMD64 && f.Emulates[0] != millrace.ARM64:
		return millrace.Errorf(millrace.Unprocessable, "A host of %s emulates at most the other architecture, not %q.", f.Arch, f.Emulates)
	case f.VCPUs < 1 || f.VCPUs > large || f.MemoryMB < 1 || f.MemoryMB > large || f.DiskMB < 0 || f.DiskMB > large ||
		f.Offer.MilliCPU < 0 || f.Offer.MilliCPU > large || f.Offer.MemoryMB < 0 || f.Offer.MemoryMB > large:
		return millrace.Errorf(millrace.Unprocessable, "The host's vCPUs, memory, disk and offer are not plausible.")
	case f.MaxVMs < 0 || f.MaxVMs > millrace.MaxHostVMs:
		return millrace.Errorf(millrace.Unprocessable, "A host's maximum of VMs is 1 to %d, or 0 for as many as fit; not %d.", millrace.MaxHostVMs, f.MaxVMs)
	case f.Network != "" && !slices.Contains(millrace.VMNetworks, f.Network):
		return millrace.Errorf(millrace.Unprocessable, "A host's VM networks are tap, user or unknown, not %.40q.", f.Network)
	case f.BootMS < 0 || f.BootMS > large:
		return millrace.Errorf(millrace.Unprocessable, "The trial VM's boot time is not plausible.")
	}
	if err := millrace.CheckHostLabels(f.Labels); err != nil {
		return err
	}
	for _, text := range []string{f.Driver, f.Version, f.Kernel, f.CPUModel} {
		if len(text) > 256 || strings.Contains(text, "\x00") {
			return millrace.Errorf(millrace.Unprocessable, "A host's texts have at most 256 characters.")
		}
	}
	return nil
}

// signed reads a request that a host signed and checks who it is: the signature, the epoch, and that it is no replay.
func (s *Server) signed(w http.ResponseWriter, r *http.Request, limit int64) (host store.HostCredentials, body []byte, err error) {
	body, err = s.signedFor(w, r, limit, func(id millrace.HostID) (store.HostCredentials, error) {
		host, err = s.store.HostCredentials(r.Context(), id)
		return host, err
	})
	return host, body, err
}

// signedFor is signed by a host that find finds.
func (s *Server) signedFor(w http.ResponseWriter, r *http.Request, limit int64, find func(millrace.HostID) (store.HostCredentials, error)) (body []byte, err error) {
	var host store.HostCredentials
	if body, err = readBody(w, r, limit); err != nil {
		return nil, err
	}
	now := s.now()
	claims, err := client.Verify(r, body, func(id millrace.HostID) (ed25519.PublicKey, error) {
		host, err = find(id)
		return host.SignKey, err
	}, now)
	w.Header().Set("Date", now.UTC().Format(http.TimeFormat)) // a host whose clock is wrong sees by how much
	if err != nil {
		return nil, err
	}
	if host.Removed {
		return nil, store.ErrHostRemoved
	}
	isFirst := client.IsFirst(r.URL.Path)
	if !isFirst && claims.Epoch == host.Epoch-1 {
		if err := s.store.Org(host.OrgID).Cloned(r.Context(), host.HostID, claims.Epoch); err != nil {
			return nil, err
		}
	}
	if want := host.Epoch; !isFirst && claims.Epoch != want || isFirst && claims.Epoch != 0 {
		return nil, millrace.Errorf(millrace.Unauthenticated, "The request's epoch is not the host's present one: the agent was started again elsewhere.")
	}
	if isFirst {
		if time.UnixMilli(claims.Sequence).Sub(now) > client.MaxSkew { // all that are signed with the right time would be lower
			return nil, millrace.Errorf(millrace.Unauthenticated, "The request's sequence number is not the time: it is ahead.")
		}
		return body, s.store.Org(host.OrgID).UseFirst(r.Context(), host.HostID, claims.Sequence)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	seen, ok := s.windows[host.HostID]
	if !ok {
		seen = &client.Window{}
		s.windows[host.HostID] = seen
	}
	if claims.Sequence <= host.Sequence-64 || !seen.Accept(claims.Epoch, claims.Sequence) {
		return nil, store.ErrReplayed
	}
	s.store.Heard(host.OrgID, host.HostID, claims.Epoch, claims.Sequence)
	return body, nil
}

func (s *Server) start(w http.ResponseWriter, r *http.Request) error {
	host, body, err := s.signed(w, r, maxAgentBody)
	if err != nil {
		return err
	}
	var in client.StartRequest
	if err := decode(body, &in); err != nil {
		return err
	}
	if err := checkFacts(in.Facts); err != nil {
		return err
	}
	in.Facts.Findings = findings(in.Facts.Findings)
	if len(in.BootID) > maxBootID || text(in.BootID) != in.BootID {
		return millrace.Errorf(millrace.Unprocessable, "A boot's ID has at most %d characters.", maxBootID)
	}
	epoch, err := s.store.Org(host.OrgID).StartHost(r.Context(), host.HostID, in.BootID, in.Facts)
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, client.StartResponse{Epoch: epoch, ServerTime: s.now()})
	return nil
}

func (s *Server) setKeys(w http.ResponseWriter, r *http.Request) error {
	host, body, err := s.signed(w, r, maxAgentBody)
	if err != nil {
		return err
	}
	var in client.KeysRequest
	if err := decode(body, &in); err != nil {
		return err
	}
	if len(in.SignKey) != ed25519.PublicKeySize || len(in.SealKey) != 32 {
		return errKeys
	}
	if !ed25519.Verify(in.SignKey, in.Text(host.HostID), in.Proof) {
		return millrace.Errorf(millrace.Unprocessable, "The proof is no signature by the new key of its host and both keys.")
	}
	if err := s.store.Org(host.OrgID).SetHostKeys(r.Context(), fromOf(r), host, in.BootID, in.SignKey, in.SealKey); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

var errKeys = millrace.Errorf(millrace.Unprocessable, "The keys are an Ed25519 and an X25519 public key, 32 bytes each.")

// sync takes what the host observes, and answers with what it should have: at once when that differs from what it knows,
// when it changes, or after a heartbeat.
func (s *Server) sync(w http.ResponseWriter, r *http.Request) error {
	var host store.HostView
	body, err := s.signedFor(w, r, maxAgentBody, func(id millrace.HostID) (_ store.HostCredentials, err error) {
		host, err = s.store.ViewHost(r.Context(), id)
		return host.HostCredentials, err
	})
	if err != nil {
		return err
	}
	var in client.SyncRequest
	if err := decode(body, &in); err != nil {
		return err
	}
	observations, err := Observations(in.VMs)
	if err != nil {
		return err
	}
	ctx, org, changed := r.Context(), s.store.Org(host.OrgID), host.Changed
	desired, err := host.Observe(ctx, text(in.Refuses), observations)
	if err != nil {
		return err
	}
	waiting.Inc()
	defer waiting.Dec()
	heartbeat := time.NewTimer(millrace.UntilHeartbeat(host.HostID, s.now()))
	defer heartbeat.Stop()
	for late := false; ; {
		watched := s.store.Watched(desired.VMs)
		unheard := func(r client.VMReport) bool { return !r.Watched && slices.Contains(watched, r.ID) }
		if desired.Version != in.Have || late || slices.ContainsFunc(in.VMs, unheard) {
			writeJSON(w, http.StatusOK, SyncResponse(desired, watched, s.now()))
			return nil
		}
		select {
		case <-changed:
		case <-heartbeat.C:
			late = true // should an announcement have been lost, the next sync reads it: it follows at once
			continue
		case <-ctx.Done():
			return ctx.Err()
		}
		changed = s.store.Bus.On(store.TopicHost(host.HostID))
		if desired, err = org.Desired(ctx, host.HostID); err != nil {
			return err
		}
		if desired.Removed {
			return store.ErrHostRemoved
		}
	}
}

// SyncResponse is what a host that should be doing d is told; watched are those of its VMs whose consoles somebody reads.
func SyncResponse(d store.Desired, watched []millrace.VMID, now time.Time) client.SyncResponse {
	out := client.SyncResponse{
		Version: d.Version, VMs: make([]client.VMOrder, 0, len(d.VMs)), ServerTime: now, Restart: d.Restart, Reboot: d.Reboot, Rotate: d.KeysDue(now),
	}
	for _, v := range d.VMs {
		o := client.NewVMOrder(v)
		o.Watched = slices.Contains(watched, v.ID)
		out.VMs = append(out.VMs, o)
	}
	return out
}

// Observations reads what an agent reports. What contradicts a VM's row is the store's to see; what makes no sense is
// refused here.
func Observations(reports []client.VMReport) ([]millrace.Observation, error) {
	if len(reports) > millrace.MaxHostVMs {
		return nil, millrace.Errorf(millrace.Unprocessable, "A host reports at most %d VMs.", millrace.MaxHostVMs)
	}
	list := make([]millrace.Observation, 0, len(reports))
	for _, r := range reports {
		switch r.State {
		case millrace.VMPending, millrace.VMBooting, millrace.VMOnline, millrace.VMBusy, millrace.VMGone:
		case millrace.VMStopping, millrace.VMLost:
			return nil, millrace.Errorf(millrace.Unprocessable, "A host cannot say that VM %s is %s.", r.ID, r.State)
		default:
			return nil, millrace.Errorf(millrace.Unprocessable, "%.20q is no state of a VM.", r.State)
		}
		o := millrace.Observation{VMID: r.ID, Epoch: r.Epoch, State: r.State, Reason: text(r.Reason), ExitCode: r.ExitCode, Usage: r.Usage}
		for _, step := range r.Steps[:min(len(r.Steps), len(millrace.VMStates))] {
			if step.AgeMS >= 0 && step.AgeMS < 1<<40 && (step.State != millrace.VMGone || r.State == millrace.VMGone) {
				o.Steps = append(o.Steps, millrace.Step{State: step.State, Age: time.Duration(step.AgeMS) * time.Millisecond})
			}
		}
		if o.ExitCode != nil && int64(*o.ExitCode) != int64(int32(*o.ExitCode)) {
			o.ExitCode = nil // no process has it, and no column holds it
		}
		list = append(list, o)
	}
	return list, nil
}

// findings are what is kept of what a host found of itself. Its word is never trusted to be short, nor to be of a level that
// there is: a newer agent's may not be.
func findings(list []millrace.Finding) []millrace.Finding {
	kept := []millrace.Finding{}
	for _, f := range list[:min(len(list), millrace.MaxFindings)] {
		switch f.Level {
		case millrace.LevelOK, millrace.LevelWarning, millrace.LevelFailure:
		default:
			continue
		}
		for _, s := range []*string{&f.Check, &f.Found, &f.Do, &f.Command} {
			*s = bounded(*s, millrace.MaxFindingText)
		}
		kept = append(kept, f)
	}
	return kept
}

// text bounds a text that a host sends.
func text(s string) string { return bounded(s, 2000) }

// bounded cuts a text after so many bytes at most and removes what Postgres can't store.
func bounded(s string, most int) string {
	s = strings.ReplaceAll(strings.ToValidUTF8(s, "\uFFFD"), "\x00", "")
	if len(s) > most {
		s = strings.ToValidUTF8(s[:most], "")
	}
	return s
}

func (s *Server) appendLog(w http.ResponseWriter, r *http.Request) error {
	host, body, err := s.signed(w, r, maxConsole)
	if err != nil {
		return err
	}
	offset, err := offsetOf(r)
	if err != nil {
		return err
	}
	if err := s.store.Org(host.OrgID).AppendAgentLog(r.Context(), host.HostID, millrace.LogPosition{Epoch: host.Epoch, Offset: offset}, body); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func offsetOf(r *http.Request) (int64, error) {
	const most = 1e9 // of which an agent that says too much starts anew
	offset, err := strconv.ParseInt(r.URL.Query().Get("offset"), 10, 64)
	if err != nil || offset < 0 || offset > most {
		return 0, millrace.Errorf(millrace.Invalid, "offset says where the bytes belong; it is a number from 0 to %d.", int64(most))
	}
	return offset, nil
}

func (s *Server) appendConsole(w http.ResponseWriter, r *http.Request) error {
	vm, malformed := millrace.ParseVMID(chi.URLParam(r, "vm"))
	var view store.VMView
	body, err := s.signedFor(w, r, maxConsole, func(host millrace.HostID) (_ store.HostCredentials, err error) {
		view, err = s.store.ViewVM(r.Context(), host, vm)
		return view.HostCredentials, err
	})
	if err := cmp.Or(err, malformed); err != nil {
		return err
	}
	offset, err := offsetOf(r)
	if err != nil {
		return err
	}
	if err := view.AppendConsole(r.Context(), offset, body); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

func (s *Server) appendSamples(w http.ResponseWriter, r *http.Request) error {
	host, body, err := s.signed(w, r, maxSamples)
	if err != nil {
		return err
	}
	vm, err := millrace.ParseVMID(chi.URLParam(r, "vm"))
	if err != nil {
		return err
	}
	var in client.SamplesRequest
	if err := decode(body, &in); err != nil {
		return err
	}
	if len(in.Samples) > millrace.MaxSamples {
		return millrace.Errorf(millrace.TooLarge, "There are at most %d samples in a request.", millrace.MaxSamples)
	}
	if err := s.store.Org(host.OrgID).AppendSamples(r.Context(), host.HostID, vm, in.Epoch, in.Samples); err != nil {
		return err
	}
	w.WriteHeader(http.StatusNoContent)
	return nil
}

// decode reads a JSON body. Fields that we don't know are a newer agent's and are ignored.
func decode(body []byte, into any) error {
	if err := json.Unmarshal(body, into); err != nil {
		return millrace.Errorf(millrace.Invalid, "The body is not the JSON that this call takes.")
	}
	return nil
}
