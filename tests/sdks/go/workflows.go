package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"
)

const (
	attemptsUntilSuccess = 3
	runsUntilDone        = 3
	timerDuration        = time.Second
)

// Greet returns a greeting for the given name.
func Greet(_ context.Context, name string) (string, error) {
	return "Hello, " + name + "!", nil
}

// FailTwice fails until its third attempt and returns the number of that attempt.
func FailTwice(ctx context.Context) (int32, error) {
	attempt := activity.GetInfo(ctx).Attempt
	if attempt < attemptsUntilSuccess {
		return 0, fmt.Errorf("attempt %d fails on purpose", attempt)
	}
	return attempt, nil
}

func withActivityOptions(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		StartToCloseTimeout: 10 * time.Second,
		RetryPolicy: &temporal.RetryPolicy{
			InitialInterval:    20 * time.Millisecond,
			BackoffCoefficient: 1,
			MaximumAttempts:    attemptsUntilSuccess,
		},
	})
}

// HelloWorkflow returns what one activity returns.
func HelloWorkflow(ctx workflow.Context, name string) (string, error) {
	var greeting string
	err := workflow.ExecuteActivity(withActivityOptions(ctx), Greet, name).Get(ctx, &greeting)
	return greeting, err
}

// RetryWorkflow returns the attempt on which its activity succeeded.
func RetryWorkflow(ctx workflow.Context) (int32, error) {
	var attempt int32
	err := workflow.ExecuteActivity(withActivityOptions(ctx), FailTwice).Get(ctx, &attempt)
	return attempt, err
}

// SignalWorkflow collects the payloads of its "add" signals until a "finish" signal.
func SignalWorkflow(ctx workflow.Context) ([]string, error) {
	var seen []string
	finished := false
	selector := workflow.NewSelector(ctx)
	selector.AddReceive(workflow.GetSignalChannel(ctx, "add"), func(channel workflow.ReceiveChannel, _ bool) {
		var value string
		channel.Receive(ctx, &value)
		seen = append(seen, value)
	})
	selector.AddReceive(workflow.GetSignalChannel(ctx, "finish"), func(channel workflow.ReceiveChannel, _ bool) {
		channel.Receive(ctx, nil)
		finished = true
	})
	for !finished || selector.HasPending() {
		selector.Select(ctx)
	}
	return seen, nil
}

// QueryWorkflow answers "state" with "waiting" before its "finish" signal and "finished" after it.
func QueryWorkflow(ctx workflow.Context) error {
	state := "waiting"
	if err := workflow.SetQueryHandler(ctx, "state", func() (string, error) { return state, nil }); err != nil {
		return err
	}
	workflow.GetSignalChannel(ctx, "finish").Receive(ctx, nil)
	state = "finished"
	return nil
}

// UpdateWorkflow adds positive amounts, refuses others, and returns the total on "finish".
func UpdateWorkflow(ctx workflow.Context) (int, error) {
	total := 0
	err := workflow.SetUpdateHandlerWithOptions(ctx, "add",
		func(_ workflow.Context, amount int) (int, error) {
			total += amount
			return total, nil
		},
		workflow.UpdateHandlerOptions{Validator: func(amount int) error {
			if amount <= 0 {
				return errors.New("amount must be positive")
			}
			return nil
		}})
	if err != nil {
		return 0, err
	}
	workflow.GetSignalChannel(ctx, "finish").Receive(ctx, nil)
	return total, nil
}

// ParentWorkflow returns what its child returns, and the child's own view of its parent.
func ParentWorkflow(ctx workflow.Context, childID string) (string, error) {
	options := workflow.ChildWorkflowOptions{WorkflowID: childID}
	var result string
	err := workflow.ExecuteChildWorkflow(workflow.WithChildOptions(ctx, options), ChildWorkflow).Get(ctx, &result)
	return result, err
}

// ChildWorkflow returns the workflow id of its parent.
func ChildWorkflow(ctx workflow.Context) (string, error) {
	parent := workflow.GetInfo(ctx).ParentWorkflowExecution
	if parent == nil {
		return "", errors.New("no parent")
	}
	return parent.ID, nil
}

// TimerWorkflow sleeps and returns the workflow time that passed meanwhile.
func TimerWorkflow(ctx workflow.Context) (time.Duration, error) {
	before := workflow.Now(ctx)
	if err := workflow.Sleep(ctx, timerDuration); err != nil {
		return 0, err
	}
	return workflow.Now(ctx).Sub(before), nil
}

// ContinueAsNewWorkflow continues as new until its third run, then returns that run's number.
func ContinueAsNewWorkflow(ctx workflow.Context, run int) (int, error) {
	if run < runsUntilDone {
		return 0, workflow.NewContinueAsNewError(ctx, ContinueAsNewWorkflow, run+1)
	}
	return run, nil
}
