//go:build linux

package pid1

import (
	"reflect"
	"testing"
)

func TestNetworkOf(t *testing.T) {
	t.Parallel()
	n, err := networkOf("console=ttyS0 quiet\n")
	if err != nil || !reflect.DeepEqual(n, userMode) {
		t.Errorf("%+v, %v", n, err)
	}
	n, err = networkOf("quiet millrace.address=198.18.0.7/31,fd00::7/127 millrace.gateway=02:00:00:00:00:01 millrace.dns=192.0.2.1,2001:db8::1\n")
	if err != nil || len(n.addresses) != 2 || n.addresses[1].String() != "fd00::7/127" || n.gateways[0].String() != "198.18.0.6" || n.gateways[1].String() != "fd00::6" ||
		n.mac.String() != "02:00:00:00:00:01" || !reflect.DeepEqual(n.resolvers, []string{"192.0.2.1", "2001:db8::1"}) {
		t.Errorf("%+v, %v", n, err)
	}
	for _, bad := range []string{"millrace.address=198.18.0.7", "millrace.address=198.18.0.7/31 millrace.gateway=x"} {
		if n, err := networkOf(bad); err == nil {
			t.Errorf("%s gives %+v", bad, n)
		}
	}
}
