package main

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/google/uuid"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"
)

// suite runs checks through one client against one task queue.
type suite struct {
	client    client.Client
	taskQueue string
}

type check struct {
	name string
	run  func(*suite, context.Context) error
}

var checks = []check{
	{"hello_activity", (*suite).helloActivity},
	{"activity_retry", (*suite).activityRetry},
	{"signal", (*suite).signal},
	{"query", (*suite).query},
	{"update", (*suite).update},
	{"child_workflow", (*suite).childWorkflow},
	{"timer", (*suite).timer},
	{"continue_as_new", (*suite).continueAsNew},
}

func (s *suite) start(ctx context.Context, workflow any, args ...any) (client.WorkflowRun, error) {
	options := client.StartWorkflowOptions{ID: "go-smoke-" + uuid.NewString(), TaskQueue: s.taskQueue}
	return s.client.ExecuteWorkflow(ctx, options, workflow, args...)
}

func (s *suite) signalRun(ctx context.Context, run client.WorkflowRun, name string, arg any) error {
	return s.client.SignalWorkflow(ctx, run.GetID(), run.GetRunID(), name, arg)
}

func expectEqual[T comparable](what string, got, want T) error {
	if got != want {
		return fmt.Errorf("%s: got %v, want %v", what, got, want)
	}
	return nil
}

func (s *suite) helloActivity(ctx context.Context) error {
	run, err := s.start(ctx, HelloWorkflow, "Go")
	if err != nil {
		return err
	}
	var greeting string
	if err := run.Get(ctx, &greeting); err != nil {
		return err
	}
	return expectEqual("greeting", greeting, "Hello, Go!")
}

func (s *suite) activityRetry(ctx context.Context) error {
	run, err := s.start(ctx, RetryWorkflow)
	if err != nil {
		return err
	}
	var attempt int32
	if err := run.Get(ctx, &attempt); err != nil {
		return err
	}
	return expectEqual("attempt", attempt, attemptsUntilSuccess)
}

func (s *suite) signal(ctx context.Context) error {
	run, err := s.start(ctx, SignalWorkflow)
	if err != nil {
		return err
	}
	want := []string{"a", "b", "c"}
	for _, value := range want {
		if err := s.signalRun(ctx, run, "add", value); err != nil {
			return err
		}
	}
	if err := s.signalRun(ctx, run, "finish", nil); err != nil {
		return err
	}
	var seen []string
	if err := run.Get(ctx, &seen); err != nil {
		return err
	}
	if !slices.Equal(seen, want) {
		return fmt.Errorf("signals: got %v, want %v", seen, want)
	}
	return nil
}

func (s *suite) query(ctx context.Context) error {
	run, err := s.start(ctx, QueryWorkflow)
	if err != nil {
		return err
	}
	if err := s.expectState(ctx, run, "waiting"); err != nil {
		return err
	}
	if err := s.signalRun(ctx, run, "finish", nil); err != nil {
		return err
	}
	if err := run.Get(ctx, nil); err != nil {
		return err
	}
	return s.expectState(ctx, run, "finished")
}

func (s *suite) expectState(ctx context.Context, run client.WorkflowRun, want string) error {
	answer, err := s.client.QueryWorkflow(ctx, run.GetID(), run.GetRunID(), "state")
	if err != nil {
		return err
	}
	var state string
	if err := answer.Get(&state); err != nil {
		return err
	}
	return expectEqual("query answer", state, want)
}

func (s *suite) update(ctx context.Context) error {
	run, err := s.start(ctx, UpdateWorkflow)
	if err != nil {
		return err
	}
	for _, step := range []struct{ amount, total int }{{2, 2}, {3, 5}} {
		total, err := s.add(ctx, run, step.amount)
		if err != nil {
			return err
		}
		if err := expectEqual("update result", total, step.total); err != nil {
			return err
		}
	}
	_, err = s.add(ctx, run, -1)
	var refusal *temporal.ApplicationError
	if !errors.As(err, &refusal) || refusal.Message() != "amount must be positive" {
		return fmt.Errorf("refused update: got error %v", err)
	}
	if err := s.signalRun(ctx, run, "finish", nil); err != nil {
		return err
	}
	var total int
	if err := run.Get(ctx, &total); err != nil {
		return err
	}
	return expectEqual("total", total, 5)
}

func (s *suite) add(ctx context.Context, run client.WorkflowRun, amount int) (int, error) {
	handle, err := s.client.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
		WorkflowID:   run.GetID(),
		RunID:        run.GetRunID(),
		UpdateName:   "add",
		Args:         []any{amount},
		WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	if err != nil {
		return 0, err
	}
	var total int
	err = handle.Get(ctx, &total)
	return total, err
}

func (s *suite) childWorkflow(ctx context.Context) error {
	childID := "go-smoke-child-" + uuid.NewString()
	run, err := s.start(ctx, ParentWorkflow, childID)
	if err != nil {
		return err
	}
	var parentID string
	if err := run.Get(ctx, &parentID); err != nil {
		return err
	}
	if err := expectEqual("parent seen by the child", parentID, run.GetID()); err != nil {
		return err
	}
	child, err := s.client.DescribeWorkflowExecution(ctx, childID, "")
	if err != nil {
		return err
	}
	info := child.GetWorkflowExecutionInfo()
	if err := expectEqual("parent of the child", info.GetParentExecution().GetRunId(), run.GetRunID()); err != nil {
		return err
	}
	return expectEqual("status of the child", info.GetStatus(), enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED)
}

func (s *suite) timer(ctx context.Context) error {
	run, err := s.start(ctx, TimerWorkflow)
	if err != nil {
		return err
	}
	var slept int64
	if err := run.Get(ctx, &slept); err != nil {
		return err
	}
	if slept < int64(timerDuration) {
		return fmt.Errorf("slept %d ns, want at least %d ns", slept, int64(timerDuration))
	}
	return nil
}

func (s *suite) continueAsNew(ctx context.Context) error {
	run, err := s.start(ctx, ContinueAsNewWorkflow, 1)
	if err != nil {
		return err
	}
	firstRunID := run.GetRunID()
	var last int
	if err := run.Get(ctx, &last); err != nil {
		return err
	}
	if err := expectEqual("number of the last run", last, runsUntilDone); err != nil {
		return err
	}
	first, err := s.client.DescribeWorkflowExecution(ctx, run.GetID(), firstRunID)
	if err != nil {
		return err
	}
	return expectEqual("status of the first run", first.GetWorkflowExecutionInfo().GetStatus(),
		enumspb.WORKFLOW_EXECUTION_STATUS_CONTINUED_AS_NEW)
}
