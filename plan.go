package millrace

// PlanName names a plan. What a plan allows is code; Stripe's price lookup key is this name.
type PlanName string

// PlanTrial is what a new org has until it subscribes.
const PlanTrial PlanName = "trial"

// Plan is a flat price for concurrency, never for minutes.
type Plan struct {
	Name        PlanName
	Title       string
	Concurrency int // slots: VMs that may exist at once, over the whole org
}

// Plans are the plans on offer, smallest first.
var Plans = []Plan{
	{Name: PlanTrial, Title: "Trial", Concurrency: 5},
}

// PlanNamed finds a plan by its name.
func PlanNamed(name PlanName) (Plan, bool) {
	for _, p := range Plans {
		if p.Name == name {
			return p, true
		}
	}
	return Plan{}, false
}
