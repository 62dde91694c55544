// Package millrace is the vocabulary of the product: the nouns, their states and the rules that hold between them,
// wherever they are stored, shown or sent. It knows no database, no HTTP and no GitHub client; it imports the standard
// library alone.
//
// One noun has one file name in every layer: host.go here, store/host.go, api/host.go, web/host.go and web/host.templ.
//
// The way of a job: GitHub announces a queued [Job]; its labels become a [Demand]; the scheduler places it as a [VM] on
// a [Host]; the host's agent boots the VM; the VM registers as an ephemeral runner, runs one job (its own, or another
// that GitHub gave it) and is gone.
package millrace
