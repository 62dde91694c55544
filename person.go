package millrace

import "time"

// GitHubPerson is somebody who has signed in at GitHub, and what GitHub said of them at that moment. Memberships change
// there without our being told: it is good for this sign-in, and to look at again.
type GitHubPerson struct {
	User          User // GitHubID, Login and Name; ID is ours and not set
	Email         string
	Installations []PersonInstallation // where they are somebody, in GitHub's order
	// Hidden are the organisations of which GitHub said nothing, because they want their own sign-on (SAML) first: by login
	// where it is known, otherwise by GitHub's id. An admin of one of them is none here.
	Hidden []string
}

// PersonInstallation is an installation that a person may see.
type PersonInstallation struct {
	Installation
	Member bool // they belong to it: a collaborator of one repository doesn't
	Admin  bool // they own the organisation at GitHub, or it is their own account: they may link it to an org
}

// DeviceCode is the sign-in of something without a browser: it shows UserCode, which a person types at VerificationURL.
type DeviceCode struct {
	Code            Secret // what [SignIn.PollDevice] takes
	UserCode        string
	VerificationURL string
	ExpiresIn       time.Duration
	Interval        time.Duration // between polls, at least
}
