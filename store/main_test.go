package store_test

import (
	"testing"

	"github.com/millrace-ci/millrace/store/storetest"
)

func TestMain(m *testing.M) { storetest.Main(m) }
