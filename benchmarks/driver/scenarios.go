package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
)

const (
	signalsPerWorkflow = 1000
	// roundsPerConversation bounds a conversation's history; its lane then moves on to a fresh one.
	roundsPerConversation = 100
)

type scenario struct {
	run func(ctx context.Context, c client.Client, o options, m *meter)
	// lanes is how many operations run at once where the scenario itself says so; 0: as the flag says.
	lanes int
	// open marks the scenario of idle workflows: its own task queue, and no worker unless asked.
	open bool
}

func (s scenario) inFlight(o options) int {
	if s.lanes > 0 {
		return s.lanes
	}
	return o.inFlight
}

func (s scenario) needsWorker(o options) bool { return !s.open || o.withWorker }

func (s scenario) taskQueue() string {
	if s.open {
		return openTaskQueue
	}
	return taskQueue
}

var scenarios = map[string]scenario{
	"one-activity":        {run: runActivities(1)},
	"ten-activities":      {run: runActivities(10)},
	"noop":                {run: runNoop},
	"signal-query-update": {run: runConversations},
	"signals-1000":        {run: runSignals},
	"one-at-a-time":       {run: runActivities(1), lanes: 1},
	"timers-1000":         {run: runTimers},
	"open":                {run: runOpen, open: true},
}

func scenarioNames() []string { return slices.Sorted(maps.Keys(scenarios)) }

// ids numbers the workflows of this process.
type ids struct {
	prefix string
	next   atomic.Int64
}

func (i *ids) take() client.StartWorkflowOptions {
	return client.StartWorkflowOptions{ID: fmt.Sprintf("%s-%d", i.prefix, i.next.Add(1)), TaskQueue: taskQueue}
}

// startAndGet starts a workflow that returns an integer, waits for it, and records both durations.
func startAndGet(ctx context.Context, c client.Client, m *meter, start client.StartWorkflowOptions,
	workflow string, argument, want int,
) error {
	began := now()
	run, err := c.ExecuteWorkflow(ctx, start, workflow, argument)
	if err != nil {
		return fmt.Errorf("start %s: %w", start.ID, err)
	}
	started := since(began)
	var got int
	if err := run.Get(ctx, &got); err != nil {
		return fmt.Errorf("result of %s: %w", start.ID, err)
	}
	ended := since(began)
	if got != want {
		return fmt.Errorf("result of %s: got %d, want %d", start.ID, got, want)
	}
	m.record(1, map[string]time.Duration{"start": started, "result": ended})
	return nil
}

func runActivities(n int) func(context.Context, client.Client, options, *meter) {
	return func(ctx context.Context, c client.Client, o options, m *meter) {
		names := &ids{prefix: o.idPrefix}
		closedLoop(ctx, o, m, func(ctx context.Context, _ int) error {
			return startAndGet(ctx, c, m, names.take(), "activities", n, n)
		})
	}
}

func runNoop(ctx context.Context, c client.Client, o options, m *meter) {
	names := &ids{prefix: o.idPrefix}
	closedLoop(ctx, o, m, func(ctx context.Context, _ int) error {
		return startAndGet(ctx, c, m, names.take(), "noop", 7, 7)
	})
}

// conversation is one lane's running workflow and what it must answer.
type conversation struct {
	run    client.WorkflowRun
	total  int
	rounds int
}

// runConversations: each lane owns a running workflow; an operation signals it, queries it and updates it, and
// checks that the query sees the signal and the update sees both.
func runConversations(ctx context.Context, c client.Client, o options, m *meter) {
	names := &ids{prefix: o.idPrefix}
	all := make([]conversation, o.inFlight)
	closedLoop(ctx, o, m, func(ctx context.Context, lane int) error {
		own := &all[lane]
		if own.rounds == roundsPerConversation {
			if err := own.finish(ctx, c); err != nil {
				return err
			}
		}
		if own.run == nil {
			run, err := c.ExecuteWorkflow(ctx, names.take(), "conversation")
			if err != nil {
				return fmt.Errorf("start a conversation: %w", err)
			}
			*own = conversation{run: run}
		}
		return own.round(ctx, c, m)
	})
	var finishing sync.WaitGroup
	for lane := range all {
		if all[lane].run == nil || m.failed() {
			continue
		}
		finishing.Add(1)
		go func() {
			defer finishing.Done()
			if err := all[lane].finish(ctx, c); err != nil {
				m.fail(err)
			}
		}()
	}
	finishing.Wait()
}

func (v *conversation) round(ctx context.Context, c client.Client, m *meter) error {
	id := v.run.GetID()
	began := now()
	if err := c.SignalWorkflow(ctx, id, "", signalAdd, 1); err != nil {
		return fmt.Errorf("signal %s: %w", id, err)
	}
	signalled := now()
	v.total++
	got, err := v.query(ctx, c, m)
	if err != nil {
		return fmt.Errorf("query %s: %w", id, err)
	}
	if got != v.total {
		return fmt.Errorf("query %s: got %d, want %d", id, got, v.total)
	}
	queried := now()
	v.total++
	handle, err := c.UpdateWorkflow(ctx, client.UpdateWorkflowOptions{
		WorkflowID: id, UpdateName: updateAdd, Args: []any{1}, WaitForStage: client.WorkflowUpdateStageCompleted,
	})
	if err == nil {
		err = handle.Get(ctx, &got)
	}
	if err != nil {
		return fmt.Errorf("update %s: %w", id, err)
	}
	if got != v.total {
		return fmt.Errorf("update %s: got %d, want %d", id, got, v.total)
	}
	updated := now()
	v.rounds++
	m.record(1, map[string]time.Duration{
		"signal": signalled.sub(began), "query": queried.sub(signalled),
		"update": updated.sub(queried), "result": updated.sub(began),
	})
	return nil
}

// query asks for the total, again when nobody answers in the time that the SDK gives a query: the real server loses one
// now and then. Each time is counted, and all of it is a part of the operation's.
func (v *conversation) query(ctx context.Context, c client.Client, m *meter) (int, error) {
	for {
		answer, err := c.QueryWorkflow(ctx, v.run.GetID(), "", queryTotal)
		if err == nil {
			var got int
			err = answer.Get(&got)
			return got, err
		}
		var late *serviceerror.DeadlineExceeded
		if ctx.Err() != nil || !(errors.Is(err, context.DeadlineExceeded) || errors.As(err, &late)) {
			return 0, err
		}
		m.repeat("query not answered in time")
	}
}

// finish ends the conversation and checks its total: nothing lost, nothing applied twice.
func (v *conversation) finish(ctx context.Context, c client.Client) error {
	id := v.run.GetID()
	if err := c.SignalWorkflow(ctx, id, "", signalFinish, nil); err != nil {
		return fmt.Errorf("finish %s: %w", id, err)
	}
	var total int
	if err := v.run.Get(ctx, &total); err != nil {
		return fmt.Errorf("result of %s: %w", id, err)
	}
	if total != v.total {
		return fmt.Errorf("result of %s: got %d, want %d", id, total, v.total)
	}
	*v = conversation{}
	return nil
}

// runSignals sends signalsPerWorkflow signals, o.inFlight at once, into one workflow after another, each until
// it has seen them all. An operation is a signal; "result" is the time of one whole workflow.
func runSignals(ctx context.Context, c client.Client, o options, m *meter) {
	names := &ids{prefix: o.idPrefix}
	one := o
	one.inFlight = 1
	closedLoop(ctx, one, m, func(ctx context.Context, _ int) error {
		run, err := c.ExecuteWorkflow(ctx, names.take(), "collect", signalsPerWorkflow)
		if err != nil {
			return fmt.Errorf("start a collector: %w", err)
		}
		began := now()
		if err := sendSignals(ctx, c, run.GetID(), o.inFlight, m); err != nil {
			return err
		}
		var received int
		if err := run.Get(ctx, &received); err != nil {
			return fmt.Errorf("result of %s: %w", run.GetID(), err)
		}
		if received != signalsPerWorkflow {
			return fmt.Errorf("result of %s: received %d signals, want %d", run.GetID(), received, signalsPerWorkflow)
		}
		m.record(signalsPerWorkflow, map[string]time.Duration{"result": since(began)})
		return nil
	})
}

func sendSignals(ctx context.Context, c client.Client, id string, atOnce int, m *meter) error {
	return each(signalsPerWorkflow, atOnce, func(n int) error {
		began := now()
		if err := c.SignalWorkflow(ctx, id, "", signalAdd, n); err != nil {
			return fmt.Errorf("signal %s: %w", id, err)
		}
		m.record(0, map[string]time.Duration{"signal": since(began)})
		return nil
	})
}

// each calls do for 0 to count-1, atOnce at a time, and returns the first error; none is begun after it.
func each(count, atOnce int, do func(n int) error) error {
	var next atomic.Int64
	var running sync.WaitGroup
	var once sync.Once
	var first error
	for range min(atOnce, count) {
		running.Add(1)
		go func() {
			defer running.Done()
			for {
				n := int(next.Add(1)) - 1
				if n >= count {
					return
				}
				if err := do(n); err != nil {
					once.Do(func() { first = err })
					next.Store(int64(count))
					return
				}
			}
		}()
	}
	running.Wait()
	return first
}

// runOpen starts o.count workflows that wait for a signal nobody sends.
func runOpen(ctx context.Context, c client.Client, o options, m *meter) {
	names := &ids{prefix: o.idPrefix}
	if o.count == 0 {
		m.fail(fmt.Errorf("scenario open needs -count"))
		return
	}
	o.warmup = 0
	closedLoop(ctx, o, m, func(ctx context.Context, _ int) error {
		began := now()
		start := names.take()
		start.TaskQueue = openTaskQueue
		if _, err := c.ExecuteWorkflow(ctx, start, "wait"); err != nil {
			return fmt.Errorf("start %s: %w", start.ID, err)
		}
		m.record(1, map[string]time.Duration{"start": since(began)})
		return nil
	})
	for o.withWorker && !m.failed() && waiting.Load() < int64(o.count) {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			m.fail(ctx.Err())
		}
	}
}
