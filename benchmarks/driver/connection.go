package main

import (
	"context"
	"fmt"
	"path"
	"sync"

	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"google.golang.org/grpc"
	"google.golang.org/grpc/status"
)

const (
	taskQueue = "benchmark"
	// openTaskQueue is apart, so that no later worker of a load scenario takes the open workflows' tasks.
	openTaskQueue = "benchmark-open"

	// The worker's settings, the same for every server and scenario; what is not named here is the SDK's default.
	workflowTaskPollers    = 8
	activityTaskPollers    = 8
	concurrentWorkflowTask = 200
	concurrentActivities   = 200
)

func sdkVersion() string { return "go.temporal.io/sdk " + temporal.SDKVersion }

// workerSettings names the settings for the result, with the SDK defaults that matter to a server's load.
func workerSettings() map[string]any {
	return map[string]any{
		"workflow_task_pollers":     workflowTaskPollers,
		"activity_task_pollers":     activityTaskPollers,
		"concurrent_workflow_tasks": concurrentWorkflowTask,
		"concurrent_activities":     concurrentActivities,
		"sticky_cache":              "SDK default, 10,000 workflows",
		"eager_workflow_start":      "off (SDK default)",
		"eager_activities":          "on (SDK default), at most 3 a workflow task",
	}
}

func connect(o options, watch *watch) (client.Client, error) {
	connection := client.ConnectionOptions{
		DialOptions: []grpc.DialOption{grpc.WithChainUnaryInterceptor(watch.intercept)},
	}
	if o.compression == "none" {
		connection.GrpcCompression = &client.GrpcCompressionNone{}
	}
	c, err := client.Dial(client.Options{
		HostPort: o.address, Namespace: o.namespace, Logger: watch, ConnectionOptions: connection,
	})
	if err != nil {
		return nil, fmt.Errorf("connect to %s: %w", o.address, err)
	}
	return c, nil
}

func newWorker(c client.Client, taskQueue string) worker.Worker {
	w := worker.New(c, taskQueue, worker.Options{
		MaxConcurrentWorkflowTaskPollers:       workflowTaskPollers,
		MaxConcurrentActivityTaskPollers:       activityTaskPollers,
		MaxConcurrentWorkflowTaskExecutionSize: concurrentWorkflowTask,
		MaxConcurrentActivityExecutionSize:     concurrentActivities,
	})
	register(w)
	return w
}

// watch counts what the SDK hides by retrying: failed attempts of calls, and its own warnings.
type watch struct {
	mu       sync.Mutex
	calls    map[string]int
	warnings map[string]int
}

func newWatch() *watch {
	return &watch{calls: map[string]int{}, warnings: map[string]int{}}
}

// intercept is the innermost interceptor, so it sees each attempt.
func (w *watch) intercept(ctx context.Context, method string, request, reply any, cc *grpc.ClientConn,
	invoker grpc.UnaryInvoker, opts ...grpc.CallOption,
) error {
	err := invoker(ctx, method, request, reply, cc, opts...)
	if err != nil && ctx.Err() == nil {
		w.mu.Lock()
		w.calls[path.Base(method)+" "+status.Code(err).String()]++
		w.mu.Unlock()
	}
	return err
}

// Debug drops the SDK's debug lines: watch is the SDK's logger.
func (w *watch) Debug(string, ...any) {}

// Info drops the SDK's info lines.
func (w *watch) Info(string, ...any) {}

// Warn counts a warning by its message, without what varies in it.
func (w *watch) Warn(message string, _ ...any) { w.warn("warn: " + message) }

// Error counts an error line by its message.
func (w *watch) Error(message string, _ ...any) { w.warn("error: " + message) }

func (w *watch) warn(line string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.warnings[line]++
}

func (w *watch) fill(r *result) {
	w.mu.Lock()
	defer w.mu.Unlock()
	r.FailedCalls = map[string]int{}
	for name, n := range w.calls {
		r.FailedCalls[name] = n
	}
	r.Warnings = map[string]int{}
	for line, n := range w.warnings {
		r.Warnings[line] = n
	}
}
