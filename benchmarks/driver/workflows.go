package main

import (
	"context"
	"sync"
	"sync/atomic"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
)

const (
	sleepDuration = 5 * time.Second

	signalAdd    = "add"
	signalFinish = "finish"
	queryTotal   = "total"
	updateAdd    = "add-and-get"
)

func register(w worker.Worker) {
	w.RegisterWorkflowWithOptions(activitiesWorkflow, workflow.RegisterOptions{Name: "activities"})
	w.RegisterWorkflowWithOptions(noopWorkflow, workflow.RegisterOptions{Name: "noop"})
	w.RegisterWorkflowWithOptions(conversationWorkflow, workflow.RegisterOptions{Name: "conversation"})
	w.RegisterWorkflowWithOptions(collectWorkflow, workflow.RegisterOptions{Name: "collect"})
	w.RegisterWorkflowWithOptions(sleepWorkflow, workflow.RegisterOptions{Name: "sleep"})
	w.RegisterWorkflowWithOptions(waitWorkflow, workflow.RegisterOptions{Name: "wait"})
	w.RegisterActivityWithOptions(incrementActivity, activity.RegisterOptions{Name: "increment"})
}

// activitiesWorkflow runs n activities in sequence, each adding one to the value it is given.
func activitiesWorkflow(ctx workflow.Context, n int) (int, error) {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: 30 * time.Second})
	value := 0
	for range n {
		if err := workflow.ExecuteActivity(ctx, "increment", value).Get(ctx, &value); err != nil {
			return 0, err
		}
	}
	return value, nil
}

func incrementActivity(_ context.Context, value int) (int, error) { return value + 1, nil }

// noopWorkflow returns what it is given.
func noopWorkflow(_ workflow.Context, value int) (int, error) { return value, nil }

// conversationWorkflow keeps a total that signals and updates add to and queries read, until told to finish.
func conversationWorkflow(ctx workflow.Context) (int, error) {
	total := 0
	if err := workflow.SetQueryHandler(ctx, queryTotal, func() (int, error) { return total, nil }); err != nil {
		return 0, err
	}
	add := func(_ workflow.Context, amount int) (int, error) {
		total += amount
		return total, nil
	}
	if err := workflow.SetUpdateHandler(ctx, updateAdd, add); err != nil {
		return 0, err
	}
	finished := false
	selector := workflow.NewSelector(ctx)
	selector.AddReceive(workflow.GetSignalChannel(ctx, signalAdd), func(c workflow.ReceiveChannel, _ bool) {
		var amount int
		c.Receive(ctx, &amount)
		total += amount
	})
	selector.AddReceive(workflow.GetSignalChannel(ctx, signalFinish), func(c workflow.ReceiveChannel, _ bool) {
		c.Receive(ctx, nil)
		finished = true
	})
	for !finished {
		selector.Select(ctx)
	}
	return total, nil
}

// collectWorkflow ends when it has received n distinct values; a repeated one does not count.
// It returns how many signals it received in all, so a duplicate shows.
func collectWorkflow(ctx workflow.Context, n int) (int, error) {
	seen := make(map[int]struct{}, n)
	received := 0
	for len(seen) < n {
		var value int
		workflow.GetSignalChannel(ctx, signalAdd).Receive(ctx, &value)
		received++
		seen[value] = struct{}{}
	}
	return received, nil
}

// woken holds when each sleepWorkflow first ran on after its timer: wall-clock time, by workflow id.
var woken sync.Map

// sleepWorkflow sleeps once and notes, outside the workflow's own deterministic time, when it woke.
func sleepWorkflow(ctx workflow.Context) error {
	if err := workflow.Sleep(ctx, sleepDuration); err != nil {
		return err
	}
	woken.LoadOrStore(workflow.GetInfo(ctx).WorkflowExecution.ID, time.Now())
	return nil
}

// waiting counts the first runs of waitWorkflow up to its wait.
var waiting atomic.Int64

// waitWorkflow stays open until it is signalled.
func waitWorkflow(ctx workflow.Context) error {
	if !workflow.IsReplaying(ctx) {
		waiting.Add(1)
	}
	workflow.GetSignalChannel(ctx, signalFinish).Receive(ctx, nil)
	return nil
}
