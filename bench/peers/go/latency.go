package main

import (
	"context"
	"fmt"
	"math"
	"sync/atomic"
	"time"

	"github.com/riverqueue/river"
)

const warmUp = 20

// timedWorker notes the moment each job is entered, by its number.
type timedWorker struct {
	river.WorkerDefaults[noopArgs]
	begin   time.Time
	entered []atomic.Int64
	count   atomic.Int64
}

func (w *timedWorker) Work(ctx context.Context, job *river.Job[noopArgs]) error {
	w.entered[job.Args.Num].Store(int64(time.Since(w.begin)))
	w.count.Add(1)
	return nil
}

func latency(ctx context.Context, given *options) error {
	jobs := int(given.rate * given.seconds)
	timed := &timedWorker{begin: time.Now(), entered: make([]atomic.Int64, jobs+warmUp)}
	workers := river.NewWorkers()
	river.AddWorker(workers, timed)
	made, pool, err := open(ctx, given, workers, given.maxWorkers)
	if err != nil {
		return err
	}
	defer pool.Close()
	if err := made.Start(ctx); err != nil {
		return err
	}
	for num := range warmUp {
		if _, err := made.Insert(ctx, noopArgs{Num: jobs + num}, nil); err != nil {
			return err
		}
	}
	if err := timed.wait(warmUp); err != nil {
		return err
	}
	time.Sleep(time.Second) // the client goes idle
	if err := await(); err != nil {
		return err
	}
	called, returned := make([]time.Duration, jobs), make([]time.Duration, jobs)
	begin := time.Since(timed.begin)
	for num := range jobs {
		time.Sleep(begin + time.Duration(float64(num)/given.rate*1e9) - time.Since(timed.begin))
		called[num] = time.Since(timed.begin)
		if _, err := made.Insert(ctx, noopArgs{Num: num}, nil); err != nil {
			return err
		}
		returned[num] = time.Since(timed.begin)
	}
	if err := timed.wait(int64(jobs + warmUp)); err != nil {
		return err
	}
	waited, inserts := make([]float64, jobs), make([]float64, jobs)
	for num := range jobs {
		waited[num] = milliseconds(time.Duration(timed.entered[num].Load()) - returned[num])
		inserts[num] = milliseconds(returned[num] - called[num])
	}
	say(map[string]any{"waited_ms": waited, "insert_ms": inserts})
	return made.Stop(ctx)
}

func (w *timedWorker) wait(jobs int64) error {
	for start := time.Now(); w.count.Load() < jobs; time.Sleep(5 * time.Millisecond) {
		if time.Since(start) > 30*time.Second {
			return fmt.Errorf("%d of %d jobs were started", w.count.Load(), jobs)
		}
	}
	return nil
}

func milliseconds(length time.Duration) float64 {
	return math.Round(length.Seconds()*1e6) / 1e3
}
