// Command driver loads a server of Temporal's API with the official Go SDK: worker and client in one process.
// It runs one scenario, prints one result, and exits 1 when anything at all went wrong.
//
// Two lines on stderr, "mark window-start" and "mark window-end", bound the measured window, so that whoever
// started the driver can read the server's CPU time at the same moments.
package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"sort"
	"strings"
	"syscall"
	"time"
)

// options are the command line, durations as Go writes them (20s, 500ms).
type options struct {
	address          string
	namespace        string
	scenario         string
	inFlight         int
	count            int
	duration         time.Duration
	warmup           time.Duration
	operationTimeout time.Duration
	compression      string
	idPrefix         string
	withWorker       bool
	stops            string
	json             bool
}

func parseOptions() (options, error) {
	var o options
	flag.StringVar(&o.address, "address", "127.0.0.1:7233", "the server's host:port")
	flag.StringVar(&o.namespace, "namespace", "default", "namespace to work in")
	flag.StringVar(&o.scenario, "scenario", "", "one of: "+strings.Join(scenarioNames(), ", "))
	flag.IntVar(&o.inFlight, "in-flight", 32, "operations running at once (one-at-a-time: always 1; timers-1000: start calls)")
	flag.IntVar(&o.count, "count", 0, "measure exactly this many operations (excludes -duration)")
	flag.DurationVar(&o.duration, "duration", 0, "measure for this long")
	flag.DurationVar(&o.warmup, "warmup", 3*time.Second, "run for this long before measuring")
	flag.DurationVar(&o.operationTimeout, "operation-timeout", 2*time.Minute, "an operation that takes longer is an error")
	flag.StringVar(&o.compression, "compression", "gzip", "gRPC compression: gzip (the SDK's default) or none")
	flag.StringVar(&o.idPrefix, "id-prefix", "", "workflow id prefix (default: unique to this process)")
	flag.BoolVar(&o.withWorker, "open-with-worker", false, "scenario open: let a worker run each workflow up to its wait")
	flag.StringVar(&o.stops, "stops", "", "file that says for how long this process was stopped")
	flag.BoolVar(&o.json, "json", false, "print the result as one JSON object")
	flag.Parse()
	if flag.NArg() > 0 {
		return o, fmt.Errorf("unexpected argument %q", flag.Arg(0))
	}
	if _, known := scenarios[o.scenario]; !known {
		return o, fmt.Errorf("unknown scenario %q; known: %s", o.scenario, strings.Join(scenarioNames(), ", "))
	}
	if o.compression != "gzip" && o.compression != "none" {
		return o, fmt.Errorf("-compression must be gzip or none, not %q", o.compression)
	}
	if (o.count > 0) == (o.duration > 0) {
		return o, fmt.Errorf("give either -count or -duration")
	}
	if o.inFlight < 1 {
		return o, fmt.Errorf("-in-flight must be at least 1")
	}
	if o.idPrefix == "" {
		o.idPrefix = fmt.Sprintf("bench-%d-%d", time.Now().UnixMilli(), os.Getpid())
	}
	return o, nil
}

func main() {
	o, err := parseOptions()
	if err != nil {
		fmt.Fprintln(os.Stderr, "driver:", err)
		os.Exit(2)
	}
	if o.stops != "" {
		if err := readStops(o.stops); err != nil {
			fmt.Fprintln(os.Stderr, "driver:", err)
			os.Exit(2)
		}
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	r, err := run(ctx, o)
	if err != nil {
		fmt.Fprintln(os.Stderr, "driver:", err)
		os.Exit(1)
	}
	printResult(r, o.json)
	if len(r.Errors) > 0 {
		os.Exit(1)
	}
}

// run connects, starts the worker when the scenario needs one, and measures the scenario.
func run(ctx context.Context, o options) (*result, error) {
	s := scenarios[o.scenario]
	o.inFlight = s.inFlight(o)
	watch := newWatch()
	c, err := connect(o, watch)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	r := &result{Scenario: o.scenario, Address: o.address, InFlight: o.inFlight, SDK: sdkVersion(),
		Compression: o.compression, WarmupS: o.warmup.Seconds()}
	if s.needsWorker(o) {
		w := newWorker(c, s.taskQueue())
		if err := w.Start(); err != nil {
			return nil, fmt.Errorf("start worker: %w", err)
		}
		defer w.Stop()
		r.Worker = workerSettings()
	}
	m := newMeter(o.scenario)
	s.run(ctx, c, o, m)
	m.fill(r)
	watch.fill(r)
	return r, nil
}

func printResult(r *result, asJSON bool) {
	encoded, err := json.Marshal(r)
	if err != nil {
		panic(err)
	}
	if asJSON {
		fmt.Println(string(encoded))
		return
	}
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(encoded, &fields); err != nil {
		panic(err)
	}
	names := make([]string, 0, len(fields))
	for name := range fields {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Printf("%-34s %s\n", name, fields[name])
	}
}
