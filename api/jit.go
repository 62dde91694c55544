package api

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"time"

	"github.com/go-chi/chi/v5"

	"github.com/millrace-ci/millrace"
	"github.com/millrace-ci/millrace/client"
	"github.com/millrace-ci/millrace/store"
)

// registerWithin bounds a registration: a few calls to GitHub.
const registerWithin = 45 * time.Second

// jit answers with a VM's registration, sealed to its host. A repeat gets the same; GitHub is asked once.
func (s *Server) jit(w http.ResponseWriter, r *http.Request) error {
	vm, malformed := millrace.ParseVMID(chi.URLParam(r, "vm"))
	var view store.JITView
	body, err := s.signedFor(w, r, maxAgentBody, func(host millrace.HostID) (_ store.HostCredentials, err error) {
		view, err = s.store.ViewJIT(r.Context(), host, vm)
		return view.HostCredentials, err
	})
	if err := cmp.Or(err, malformed); err != nil {
		return err
	}
	var in client.JITRequest
	if err := decode(body, &in); err != nil {
		return err
	}
	// An agent that hangs up in the middle must not leave a registration behind that nobody knows.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(r.Context()), registerWithin)
	defer cancel()
	// The key is all that the answer depends on: who asks for another's VM shares nothing with its host.
	sealed, err, _ := s.jits.Do(fmt.Sprintf("%s %s %d", view.HostID, vm, in.Epoch), func() (any, error) { return s.register(ctx, view, vm, in.Epoch) })
	if err != nil {
		return err
	}
	writeJSON(w, http.StatusOK, client.JITResponse{Sealed: sealed.([]byte)})
	return nil
}

// register registers a VM's runner at GitHub, with no transaction held meanwhile, and returns its configuration sealed to
// the host. A repeat gets the same blob until the runner is online.
func (s *Server) register(ctx context.Context, view store.JITView, vm millrace.VMID, epoch int64) ([]byte, error) {
	org := s.store.Org(view.OrgID)
	grant, err := view.Begin(epoch)
	if err != nil || grant.Sealed != nil {
		return grant.Sealed, err
	}
	config, err := s.runners.CreateJIT(ctx, grant.Target, grant.VM.RunnerName, grant.VM.Labels)
	if millrace.CodeOf(err) == millrace.Conflict { // the name is taken: maybe by another request for the same, since it was looked
		if grant, err = org.BeginJIT(ctx, view.HostID, vm, epoch); err != nil || grant.Sealed != nil {
			return grant.Sealed, err
		}
		config, grant.VM.RunnerID, err = replaceRunner(ctx, s.runners, grant)
	}
	if err != nil {
		s.log.Warn("GitHub did not register a runner", "vm", vm, "error", err)
		return nil, millrace.Errorf(millrace.Unavailable, "GitHub did not register the runner: %s", millrace.MessageOf(err))
	}
	sealed, err := client.Seal(view.SealKey, client.SealedFor{Host: view.HostID, VM: vm, Epoch: epoch}, []byte(config.Encoded.Reveal()))
	if err == nil {
		err = org.SaveJIT(ctx, grant, config.RunnerID, sealed)
	}
	if err != nil {
		if undo := s.runners.DeleteRunner(ctx, grant.Target, config.RunnerID); undo != nil {
			s.log.Error("a registration is left at GitHub", "runner_id", config.RunnerID, "error", undo)
		}
		return nil, err
	}
	return sealed, nil
}

// replaceRunner registers under the VM's name, which is taken: an earlier try succeeded whose answer was lost. Its configuration
// can't be had again, so that registration is removed unless a runner uses it. It returns which one it removed; 0: none.
func replaceRunner(ctx context.Context, runners millrace.Runners, grant store.JITGrant) (config millrace.JITConfig, removed int64, err error) {
	name := grant.VM.RunnerName
	old, err := runners.FindRunner(ctx, grant.Target, name)
	switch {
	case millrace.CodeOf(err) == millrace.NotFound:
	case err != nil:
		return config, 0, err
	case old.Online || old.Busy:
		return config, 0, millrace.Errorf(millrace.Conflict, "a runner named %s is connected", name)
	default:
		if err := runners.DeleteRunner(ctx, grant.Target, old.ID); err != nil {
			return config, 0, err
		}
	}
	config, err = runners.CreateJIT(ctx, grant.Target, name, grant.VM.Labels)
	return config, old.ID, err
}
