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
	Admin bool // they own the organisation at GitHub, or it is their own account: they may link it to an org
	// Member says that they are in the organisation, or that it is their own account. Who was only let into a repository, an
	// outside collaborator, sees the installation and is none; nor is a billing manager, whom GitHub lists among no members.
	Member bool
}

// GitHubMember is somebody in a GitHub organisation.
type GitHubMember struct {
	GitHubID int64
	Login    string
	Admin    bool // they own the organisation at GitHub
}

// DeviceCode is the sign-in of something without a browser: it shows UserCode, which a person types at VerificationURL.
type DeviceCode struct {
	Code            Secret // what [SignIn.PollDevice] takes
	UserCode        string
	VerificationURL string
	ExpiresIn       time.Duration
	Interval        time.Duration // between polls, at least
}
