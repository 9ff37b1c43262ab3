package main

import (
	"context"
	"fmt"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
)

// historyReaders is how many histories are read at once after the window.
const historyReaders = 8

// runTimers starts o.count workflows as fast as o.inFlight calls at once go, each sleeping sleepDuration, waits for
// all of them together, and measures how late each timer was:
// "late" until the workflow's code ran on in the worker, "fired" until the server's TimerFired event, both from
// the moment the TimerStarted event promises. Driver and server share one clock. An early timer is an error.
func runTimers(ctx context.Context, c client.Client, o options, m *meter) {
	if o.count == 0 {
		m.fail(fmt.Errorf("scenario timers-1000 needs -count"))
		return
	}
	names := &ids{prefix: o.idPrefix}
	warmTimers(ctx, c, o, m, names)
	starts := make([]client.StartWorkflowOptions, o.count)
	for n := range starts {
		starts[n] = names.take()
	}
	starting := make(chan struct{}, o.inFlight)
	m.open()
	err := each(o.count, o.count, func(n int) error {
		starting <- struct{}{}
		ctx, cancel := context.WithTimeout(ctx, o.operationTimeout)
		defer cancel()
		began := now()
		run, err := c.ExecuteWorkflow(ctx, starts[n], "sleep")
		<-starting
		if err != nil {
			return fmt.Errorf("start %s: %w", starts[n].ID, err)
		}
		started := since(began)
		if err := run.Get(ctx, nil); err != nil {
			return fmt.Errorf("result of %s: %w", starts[n].ID, err)
		}
		m.record(1, map[string]time.Duration{"start": started, "result": since(began)})
		return nil
	})
	m.close()
	if err == nil {
		err = each(o.count, historyReaders, func(n int) error { return lateness(ctx, c, starts[n].ID, m) })
	}
	if err != nil {
		m.fail(err)
	}
}

// warmTimers runs no-op workflows for the warm-up: connections, caches and pollers, but no timer.
func warmTimers(ctx context.Context, c client.Client, o options, m *meter, names *ids) {
	until := time.Now().Add(o.warmup)
	err := each(historyReaders, historyReaders, func(int) error {
		for time.Now().Before(until) {
			if err := startAndGet(ctx, c, m, names.take(), "noop", 1, 1); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		m.fail(err)
	}
}

func lateness(ctx context.Context, c client.Client, id string, m *meter) error {
	value, ok := woken.Load(id)
	if !ok {
		return fmt.Errorf("%s: its timer was never seen to fire", id)
	}
	seen := value.(time.Time)
	var due, fired time.Time
	events := c.GetWorkflowHistory(ctx, id, "", false, enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		event, err := events.Next()
		if err != nil {
			return fmt.Errorf("history of %s: %w", id, err)
		}
		switch event.GetEventType() {
		case enums.EVENT_TYPE_TIMER_STARTED:
			duration := event.GetTimerStartedEventAttributes().GetStartToFireTimeout().AsDuration()
			due = event.GetEventTime().AsTime().Add(duration)
		case enums.EVENT_TYPE_TIMER_FIRED:
			fired = event.GetEventTime().AsTime()
		}
	}
	if due.IsZero() || fired.IsZero() {
		return fmt.Errorf("%s: its history has no timer that fired", id)
	}
	if fired.Before(due) || seen.Before(due) {
		return fmt.Errorf("%s: timer early: due %s, fired %s, seen %s", id, due, fired, seen)
	}
	m.sample("late", seen.Sub(due))
	m.sample("fired", fired.Sub(due))
	return nil
}
