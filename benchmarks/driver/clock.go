package main

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"
)

// A driver that takes turns with another is stopped (SIGSTOP) while the other runs. Whoever stops it adds how long that
// was to eight bytes of a file, in nanoseconds, before it lets the driver go on: its clock leaves them out.
var (
	origin  = time.Now()
	stopped = new(int64)
)

// readStops maps the file that says how long this process was stopped.
func readStops(name string) error {
	file, err := os.Open(name)
	if err != nil {
		return fmt.Errorf("-stops: %w", err)
	}
	defer file.Close()
	bytes, err := syscall.Mmap(int(file.Fd()), 0, int(unsafe.Sizeof(*stopped)), syscall.PROT_READ, syscall.MAP_SHARED)
	if err != nil {
		return fmt.Errorf("-stops %s: %w", name, err)
	}
	stopped = (*int64)(unsafe.Pointer(&bytes[0]))
	return nil
}

// instant is a moment on this process's own clock, which stands still while the process is stopped.
type instant time.Duration

func now() instant {
	return instant(time.Since(origin)) - instant(atomic.LoadInt64(stopped))
}

func (i instant) sub(earlier instant) time.Duration { return time.Duration(i - earlier) }

func since(earlier instant) time.Duration { return now().sub(earlier) }
