package millrace

// PlanName names a plan. What a plan allows is code; Stripe's price lookup key is this name.
type PlanName string

// PlanTrial is what a new org has until it subscribes.
const PlanTrial PlanName = "trial"

// Plan is a flat price for concurrency, never for minutes.
type Plan struct {
	Name        PlanName
	Title       string
	Concurrency int   // slots: VMs that may exist at once, over the whole org
	Price       Money // per month; nothing for the trial
}

// Plans are the plans on offer, smallest first. The prices are our list prices, without tax: one slot costs less the more
// there are, from 40 USD to 32. Hosts, repositories, people and minutes are not counted.
var Plans = []Plan{
	{Name: PlanTrial, Title: "Trial", Concurrency: 5, Price: usd(0)},
	{Name: "millrace-5", Title: "Millrace 5", Concurrency: 5, Price: usd(200_00)},
	{Name: "millrace-10", Title: "Millrace 10", Concurrency: 10, Price: usd(380_00)},
	{Name: "millrace-15", Title: "Millrace 15", Concurrency: 15, Price: usd(540_00)},
	{Name: "millrace-25", Title: "Millrace 25", Concurrency: 25, Price: usd(850_00)},
	{Name: "millrace-50", Title: "Millrace 50", Concurrency: 50, Price: usd(1600_00)},
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

// PaidPlans are the plans that one subscribes to, smallest first.
func PaidPlans() (list []Plan) {
	for _, p := range Plans {
		if p.Price.Minor > 0 {
			list = append(list, p)
		}
	}
	return list
}

// PlanFor is the smallest plan to subscribe to that lets so many jobs run at once; false when none does.
func PlanFor(jobs int) (Plan, bool) {
	for _, p := range PaidPlans() {
		if p.Concurrency >= jobs {
			return p, true
		}
	}
	return Plan{}, false
}
