// Smoke of the official Go SDK: runs every check against the server at the given address.
//
//	smoke ADDRESS [NAMESPACE]
//
// Prints "PASS name" or "FAIL name reason" for each check; exits 1 if any failed.
package main

import (
	"context"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
)

const checkTimeout = 30 * time.Second

func main() {
	if len(os.Args) < 2 || len(os.Args) > 3 {
		fmt.Fprintln(os.Stderr, "usage: smoke ADDRESS [NAMESPACE]")
		os.Exit(2)
	}
	namespace := client.DefaultNamespace
	if len(os.Args) == 3 {
		namespace = os.Args[2]
	}
	failures, err := run(os.Args[1], namespace)
	if err != nil {
		fmt.Fprintln(os.Stderr, "error:", err)
		os.Exit(2)
	}
	if failures > 0 {
		os.Exit(1)
	}
}

// run connects, starts a worker, and returns the number of failed checks.
func run(address, namespace string) (int, error) {
	logger := log.NewStructuredLogger(slog.New(slog.NewTextHandler(os.Stderr, nil)))
	connection, err := client.Dial(client.Options{HostPort: address, Namespace: namespace, Logger: logger})
	if err != nil {
		return 0, fmt.Errorf("connecting to %s: %w", address, err)
	}
	defer connection.Close()

	taskQueue := "go-smoke-" + uuid.NewString()
	smokeWorker := newWorker(connection, taskQueue)
	if err := smokeWorker.Start(); err != nil {
		return 0, fmt.Errorf("starting the worker: %w", err)
	}
	defer smokeWorker.Stop()

	failures := 0
	s := &suite{client: connection, taskQueue: taskQueue}
	for _, c := range checks {
		ctx, cancel := context.WithTimeout(context.Background(), checkTimeout)
		err := c.run(s, ctx)
		cancel()
		if err != nil {
			failures++
			fmt.Println("FAIL", c.name, strings.ReplaceAll(err.Error(), "\n", " "))
		} else {
			fmt.Println("PASS", c.name)
		}
	}
	return failures, nil
}

func newWorker(connection client.Client, taskQueue string) worker.Worker {
	smokeWorker := worker.New(connection, taskQueue, worker.Options{})
	for _, workflow := range []any{
		HelloWorkflow, RetryWorkflow, SignalWorkflow, QueryWorkflow, UpdateWorkflow,
		ParentWorkflow, ChildWorkflow, TimerWorkflow, ContinueAsNewWorkflow,
	} {
		smokeWorker.RegisterWorkflow(workflow)
	}
	smokeWorker.RegisterActivity(Greet)
	smokeWorker.RegisterActivity(FailTwice)
	return smokeWorker
}
