package main
import ("testing";"fmt";"github.com/millrace-ci/millrace/scheduler";"runtime")
func BenchmarkP(b *testing.B){ 
	runtime.GOMAXPROCS(1)
	sizes := town(func(n int) string { return fmt.Sprintf("millrace-%dcpu-%dmb", 1+n%4, 1024+n%500) })
	p := full(settled(late(sizes)))
	for b.Loop() { scheduler.Decide(p) }
}
