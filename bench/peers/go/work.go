package main

import (
	"context"
	"sync/atomic"
	"time"

	"github.com/riverqueue/river"
)

// tally counts jobs as they are entered and, where they take time, how many were in hand at once.
type tally struct {
	worked, atOnce, most, first atomic.Int64
}

type noopWorker struct {
	river.WorkerDefaults[noopArgs]
	tally *tally
	sleep time.Duration
}

func (w *noopWorker) Work(ctx context.Context, job *river.Job[noopArgs]) error {
	if w.tally.worked.Add(1) == 1 {
		w.tally.first.Store(time.Now().UnixMicro())
	}
	if w.sleep == 0 {
		return nil
	}
	now := w.tally.atOnce.Add(1)
	for most := w.tally.most.Load(); now > most && !w.tally.most.CompareAndSwap(most, now); {
		most = w.tally.most.Load()
	}
	time.Sleep(w.sleep)
	w.tally.atOnce.Add(-1)
	return nil
}

func work(ctx context.Context, given *options) error {
	count := &tally{}
	workers := river.NewWorkers()
	river.AddWorker(workers, &noopWorker{tally: count, sleep: time.Duration(given.sleep) * time.Millisecond})
	made, pool, err := open(ctx, given, workers, given.maxWorkers)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := await(); err != nil {
		return err
	}
	before := cpu()
	if err := made.Start(ctx); err != nil {
		return err
	}
	stop := make(chan error, 1)
	go func() {
		_, err := stdin.ReadString('\n')
		stop <- err
	}()
	if err := report(count, stop); err != nil {
		return err
	}
	used := cpu() - before
	start := time.Now()
	if err := made.Stop(ctx); err != nil {
		return err
	}
	say(map[string]any{
		"worked": count.worked.Load(), "cpu_s": used, "stop_s": time.Since(start).Seconds(),
		"first": float64(count.first.Load()) / 1e6, "most": count.most.Load(),
	})
	return nil
}

// report says how many jobs were entered, whenever that has changed, until it is told to stop.
func report(count *tally, stop <-chan error) error {
	ticker := time.NewTicker(5 * time.Millisecond)
	defer ticker.Stop()
	said := int64(0)
	for {
		select {
		case err := <-stop:
			return err
		case <-ticker.C:
			if worked := count.worked.Load(); worked != said {
				say(map[string]any{"worked": worked})
				said = worked
			}
		}
	}
}
