// Package billing is where the Stripe adapter will live: checkout, the customer portal and signed webhooks, behind ports of
// package millrace. Nothing is billed yet: every org is on the trial plan (millrace.Plans).
package billing
