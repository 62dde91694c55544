package millrace

// AppPermission is one permission of our GitHub App.
type AppPermission struct {
	Name   string // for people: whose it is, and what for
	Access string // for people: Read, or Read and write
	Key    string // GitHub's name of it
	Why    string
	// Personal says that it is only for personal accounts: an App that serves organisations alone does without.
	Personal bool
}

// AppPermissions are the least that work: no code is read, nothing is written to a repository. The front door and the App's
// manifest are made of them; docs/run.md has the same table.
var AppPermissions = []AppPermission{
	{"Organization: self-hosted runners", "Read and write", "organization_self_hosted_runners", "Registers one just-in-time runner for each VM, and removes it afterwards.", false},
	{"Repository: actions", "Read", "actions", "Hears that a job is queued, runs or has ended.", false},
	{"Organization: members", "Read", "members", "Tells owners from members when people sign in.", false},
	{"Repository: metadata", "Read", "metadata", "GitHub gives it to every app: names of repositories, and whether they are public.", false},
	{"Repository: administration", "Read and write", "administration", "Only for a personal account, which has no organization to register runners in. Otherwise it is not asked for.", true},
}

// Level is GitHub's name of the access.
func (p AppPermission) Level() string {
	if p.Access == "Read and write" {
		return "write"
	}
	return "read"
}

// AppEvents are the webhook events that the App subscribes to. Those of an installation and of its repositories come to every
// App by themselves.
var AppEvents = []string{"workflow_job", "installation_target", "organization", "repository"}
