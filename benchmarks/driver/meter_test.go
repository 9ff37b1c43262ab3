package main

import (
	"context"
	"encoding/binary"
	"errors"
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

func TestPercentileIsNearestRank(t *testing.T) {
	samples := make([]time.Duration, 200)
	for n := range samples {
		samples[n] = time.Duration(n+1) * time.Millisecond
	}
	for percent, want := range map[float64]float64{50: 100, 99: 198, 100: 200, 0: 1} {
		if got := *percentileMS(samples, percent); got != want {
			t.Errorf("p%v: got %v ms, want %v", percent, got, want)
		}
	}
	if got := *percentileMS(samples[:1], 99); got != 1 {
		t.Errorf("p99 of one sample: got %v ms, want 1", got)
	}
}

func TestCountedLoopRunsExactlyThatMany(t *testing.T) {
	var ran atomic.Int64
	m := newMeter("test")
	o := options{inFlight: 7, count: 100, operationTimeout: time.Minute}
	closedLoop(context.Background(), o, m, func(context.Context, int) error {
		ran.Add(1)
		m.record(1, nil)
		return nil
	})
	r := &result{}
	m.fill(r)
	if ran.Load() != 100 || r.Operations != 100 || len(r.Errors) != 0 {
		t.Errorf("ran %d, counted %d, errors %v", ran.Load(), r.Operations, r.Errors)
	}
}

func TestAnErrorEndsTheRunAndIsReported(t *testing.T) {
	var ran atomic.Int64
	m := newMeter("test")
	o := options{inFlight: 1, duration: time.Hour, operationTimeout: time.Minute}
	closedLoop(context.Background(), o, m, func(context.Context, int) error {
		if ran.Add(1) == 3 {
			return errors.New("broken")
		}
		return nil
	})
	r := &result{}
	m.fill(r)
	if r.ErrorCount == 0 || r.Errors[0] != "broken" {
		t.Errorf("errors %v", r.Errors)
	}
}

func TestTheClockStandsStillWhileTheProcessIsStopped(t *testing.T) {
	name := filepath.Join(t.TempDir(), "stops")
	if err := os.WriteFile(name, make([]byte, 8), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := readStops(name); err != nil {
		t.Fatal(err)
	}
	defer func() { stopped = new(int64) }()
	before := now()
	hour := binary.NativeEndian.AppendUint64(nil, uint64(time.Hour))
	if err := os.WriteFile(name, hour, 0o600); err != nil {
		t.Fatal(err)
	}
	if passed := since(before); passed > -59*time.Minute {
		t.Errorf("%v passed, of which an hour was none of the process's own", passed)
	}
}
