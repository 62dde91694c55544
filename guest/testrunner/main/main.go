// Command testrunner is package testrunner as a program: it takes its JIT config from the environment, as actions/runner
// does, and runs each step with /bin/sh.
package main

import (
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"time"

	"github.com/millrace-ci/millrace/guest/testrunner"
)

const jitVariable = "ACTIONS_RUNNER_INPUT_JITCONFIG"

func main() {
	jit := os.Getenv(jitVariable)
	os.Unsetenv(jitVariable) // no step may see it
	os.Exit(testrunner.Run(context.Background(), jit, os.Stdout, shell))
}

func shell(ctx context.Context, script string, env []string, out io.Writer) error {
	cmd := exec.CommandContext(ctx, "/bin/sh", "-e", "-c", script)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdout, cmd.Stderr = out, out
	cmd.WaitDelay = time.Second // a step ends with its shell; what it left in the background may hold the pipe
	err := cmd.Run()
	if errors.Is(err, exec.ErrWaitDelay) {
		return nil
	}
	return err
}
