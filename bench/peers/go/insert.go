package main

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/riverqueue/river"
)

func insert(ctx context.Context, given *options) error {
	made, pool, err := open(ctx, given, nil, 0)
	if err != nil {
		return err
	}
	defer pool.Close()
	// Connections opened, statements prepared: not what is measured.
	if err := eachCaller(max(given.callers, 1), func(int) error { return insertBatch(ctx, made, given, 0) }); err != nil {
		return err
	}
	if err := await(); err != nil {
		return err
	}
	before, start := cpu(), time.Now()
	calls := given.jobs / given.batch / given.callers
	err = eachCaller(given.callers, func(caller int) error {
		for call := range calls {
			if err := insertBatch(ctx, made, given, (caller*calls+call)*given.batch); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	say(map[string]any{
		"inserted": calls * given.callers * given.batch, "warmed": given.callers * given.batch,
		"seconds": time.Since(start).Seconds(), "cpu_s": cpu() - before,
	})
	return nil
}

func eachCaller(callers int, call func(int) error) error {
	var group sync.WaitGroup
	failed := make(chan error, callers)
	for caller := range callers {
		group.Go(func() { failed <- call(caller) })
	}
	group.Wait()
	close(failed)
	for err := range failed {
		if err != nil {
			return err
		}
	}
	return nil
}

func insertBatch(ctx context.Context, made *client, given *options, first int) error {
	if given.way == "single" {
		_, err := made.Insert(ctx, noopArgs{Num: first}, nil)
		return err
	}
	params := make([]river.InsertManyParams, given.batch)
	for i := range params {
		params[i].Args = noopArgs{Num: first + i}
	}
	var err error
	switch given.way {
	case "many":
		_, err = made.InsertMany(ctx, params)
	case "fast":
		_, err = made.InsertManyFast(ctx, params)
	default:
		err = fmt.Errorf("unknown way %q to insert", given.way)
	}
	return err
}
