package main

import (
	"context"
	"fmt"
	"math"
	"os"
	"slices"
	"sync"
	"syscall"
	"time"
)

const maxReportedErrors = 10

// result is what the driver prints: times in milliseconds unless their name says otherwise.
// Percentiles a scenario does not have are left out.
type result struct {
	Scenario    string         `json:"scenario"`
	Address     string         `json:"address"`
	InFlight    int            `json:"in_flight"`
	SDK         string         `json:"sdk"`
	Compression string         `json:"compression"`
	WarmupS     float64        `json:"warmup_s"`
	Worker      map[string]any `json:"worker,omitempty"`

	Operations     int     `json:"operations"`
	WindowS        float64 `json:"window_s"`
	ThroughputPerS float64 `json:"throughput_per_s"`
	DriverCPUS     float64 `json:"driver_cpu_s"`

	StartP50  *float64 `json:"start_p50_ms,omitempty"`
	StartP99  *float64 `json:"start_p99_ms,omitempty"`
	ResultP50 *float64 `json:"result_p50_ms,omitempty"`
	ResultP99 *float64 `json:"result_p99_ms,omitempty"`
	SignalP50 *float64 `json:"signal_p50_ms,omitempty"`
	SignalP99 *float64 `json:"signal_p99_ms,omitempty"`
	QueryP50  *float64 `json:"query_p50_ms,omitempty"`
	QueryP99  *float64 `json:"query_p99_ms,omitempty"`
	UpdateP50 *float64 `json:"update_p50_ms,omitempty"`
	UpdateP99 *float64 `json:"update_p99_ms,omitempty"`
	LateP50   *float64 `json:"late_p50_ms,omitempty"`
	LateP99   *float64 `json:"late_p99_ms,omitempty"`
	FiredP50  *float64 `json:"fired_late_p50_ms,omitempty"`
	FiredP99  *float64 `json:"fired_late_p99_ms,omitempty"`

	ErrorCount  int            `json:"error_count"`
	Errors      []string       `json:"errors"`
	FailedCalls map[string]int `json:"failed_calls"`
	Warnings    map[string]int `json:"warnings"`
	Repeated    map[string]int `json:"repeated,omitempty"`
}

// meter collects samples of the measured window and every error of the whole run.
type meter struct {
	mu         sync.Mutex
	scenario   string
	measuring  bool
	operations int
	samples    map[string][]time.Duration
	errorCount int
	errors     []string
	repeated   map[string]int
	began      instant
	elapsed    time.Duration
	cpuAtStart time.Duration
	cpu        time.Duration
}

func newMeter(scenario string) *meter {
	return &meter{scenario: scenario, samples: map[string][]time.Duration{}, repeated: map[string]int{}}
}

// open begins the measured window.
func (m *meter) open() {
	m.mu.Lock()
	defer m.mu.Unlock()
	fmt.Fprintln(os.Stderr, "mark window-start")
	m.measuring, m.began, m.cpuAtStart = true, now(), ownCPU()
}

// close ends the measured window; what is recorded later is dropped, errors are not.
func (m *meter) close() {
	m.mu.Lock()
	defer m.mu.Unlock()
	fmt.Fprintln(os.Stderr, "mark window-end")
	m.measuring, m.elapsed, m.cpu = false, since(m.began), ownCPU()-m.cpuAtStart
}

// record adds one operation that ended now, with the durations of its parts.
func (m *meter) record(operations int, parts map[string]time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if !m.measuring {
		return
	}
	m.operations += operations
	for name, d := range parts {
		m.samples[name] = append(m.samples[name], d)
	}
}

// sample adds a measurement that is taken after the window, such as one read from a history.
func (m *meter) sample(name string, d time.Duration) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.samples[name] = append(m.samples[name], d)
}

func (m *meter) fail(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.errorCount++
	if len(m.errors) < maxReportedErrors {
		m.errors = append(m.errors, err.Error())
	}
}

// repeat counts something that was done again, by the reason.
func (m *meter) repeat(reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.repeated[reason]++
}

func (m *meter) failed() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.errorCount > 0
}

func (m *meter) fill(r *result) {
	m.mu.Lock()
	defer m.mu.Unlock()
	r.Operations, r.WindowS, r.DriverCPUS = m.operations, m.elapsed.Seconds(), m.cpu.Seconds()
	if m.elapsed > 0 {
		r.ThroughputPerS = float64(m.operations) / m.elapsed.Seconds()
	}
	for name, into := range map[string][2]**float64{
		"start": {&r.StartP50, &r.StartP99}, "result": {&r.ResultP50, &r.ResultP99},
		"signal": {&r.SignalP50, &r.SignalP99}, "query": {&r.QueryP50, &r.QueryP99},
		"update": {&r.UpdateP50, &r.UpdateP99}, "late": {&r.LateP50, &r.LateP99},
		"fired": {&r.FiredP50, &r.FiredP99},
	} {
		if samples := m.samples[name]; len(samples) > 0 {
			slices.Sort(samples)
			*into[0], *into[1] = percentileMS(samples, 50), percentileMS(samples, 99)
		}
	}
	r.Repeated = m.repeated
	r.ErrorCount, r.Errors = m.errorCount, append([]string{}, m.errors...)
	if m.operations == 0 && m.errorCount == 0 {
		r.ErrorCount, r.Errors = 1, []string{"no operation ended within the measured window"}
	}
}

// percentileMS is the nearest-rank percentile of sorted samples, in milliseconds.
func percentileMS(sorted []time.Duration, percent float64) *float64 {
	rank := int(math.Ceil(percent/100*float64(len(sorted)))) - 1
	ms := float64(sorted[max(rank, 0)]) / float64(time.Millisecond)
	return &ms
}

func ownCPU() time.Duration {
	var usage syscall.Rusage
	if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
		panic(err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
}

// operation does one unit of a scenario's work on one of the lanes that run at once.
type operation func(ctx context.Context, lane int) error

// closedLoop keeps o.inFlight operations running: a warm-up, then the window, by time or by count.
// By time, the window opens while operations run. By count, the warm-up drains first, so that the server has
// seen exactly o.count operations more when the window closes. The first error ends the run.
func closedLoop(ctx context.Context, o options, m *meter, do operation) {
	lanes := newLanes(ctx, o, m, do)
	if o.count > 0 {
		if o.warmup > 0 {
			lanes.start(-1)
			lanes.sleep(o.warmup)
			lanes.drain()
		}
		m.open()
		lanes.start(o.count)
		lanes.wait()
		m.close()
		return
	}
	lanes.start(-1)
	lanes.sleep(o.warmup)
	m.open()
	lanes.sleep(o.duration)
	m.close()
	lanes.drain()
}

type lanes struct {
	ctx     context.Context
	o       options
	m       *meter
	do      operation
	running sync.WaitGroup
	tokens  chan struct{}
	stopped chan struct{}
	broken  chan struct{}
	once    sync.Once
}

func newLanes(ctx context.Context, o options, m *meter, do operation) *lanes {
	return &lanes{ctx: ctx, o: o, m: m, do: do, broken: make(chan struct{})}
}

// start runs the lanes for count operations in all, or until drained when count is negative.
func (l *lanes) start(count int) {
	l.stopped = make(chan struct{})
	l.tokens = make(chan struct{})
	go func(tokens chan<- struct{}, stopped <-chan struct{}) {
		defer close(tokens)
		for n := 0; n != count; n++ {
			select {
			case tokens <- struct{}{}:
			case <-stopped:
				return
			case <-l.broken:
				return
			case <-l.ctx.Done():
				return
			}
		}
	}(l.tokens, l.stopped)
	for lane := range l.o.inFlight {
		l.running.Add(1)
		go func() {
			defer l.running.Done()
			for range l.tokens {
				l.one(lane)
			}
		}()
	}
}

func (l *lanes) one(lane int) {
	ctx, cancel := context.WithTimeout(l.ctx, l.o.operationTimeout)
	defer cancel()
	if err := l.do(ctx, lane); err != nil {
		l.m.fail(err)
		l.once.Do(func() { close(l.broken) })
	}
}

// sleep waits, or returns early when an operation has failed.
func (l *lanes) sleep(d time.Duration) {
	for began := now(); since(began) < d; {
		select {
		case <-time.After(d - since(began)):
		case <-l.broken:
			return
		case <-l.ctx.Done():
			l.m.fail(l.ctx.Err())
			l.once.Do(func() { close(l.broken) })
			return
		}
	}
}

func (l *lanes) drain() {
	close(l.stopped)
	l.wait()
}

func (l *lanes) wait() { l.running.Wait() }
