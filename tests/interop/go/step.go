package main

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
)

// stepParams is a resumable step. What it does besides being told of, it does at one attempt.
type stepParams struct {
	Name    string          `json:"name"`
	Cursor  bool            `json:"cursor"` // a cursor step
	Attempt int             `json:"attempt"`
	Set     json.RawMessage `json:"set"`   // the cursor that it sets
	Tx      bool            `json:"tx"`    // in a transaction of its own
	Block   bool            `json:"block"` // wait, once that is done
	Ends    string          `json:"ends"`  // fail, cancel, snooze or panic
}

func takeSteps(ctx context.Context, p *peer, job *river.Job[textArgs], steps []stepParams) error {
	for _, step := range steps {
		if step.Cursor {
			river.ResumableStepCursor(ctx, step.Name, nil, func(ctx context.Context, cursor json.RawMessage) error {
				return step.take(ctx, p, job, cursor)
			})
		} else {
			river.ResumableStep(ctx, step.Name, nil, func(ctx context.Context) error {
				return step.take(ctx, p, job, nil)
			})
		}
	}
	return nil
}

func (step stepParams) take(ctx context.Context, p *peer, job *river.Job[textArgs], cursor json.RawMessage) error {
	say(map[string]any{"event": "step", "job": jobFields(job.JobRow), "step": step.Name, "cursor": cursor})
	if job.Attempt != step.Attempt {
		return nil
	}
	if err := step.keep(ctx, p, job); err != nil {
		return err
	}
	if step.Block {
		<-p.releaseOf(job.ID)
	}
	switch text := "in step " + step.Name; step.Ends {
	case "cancel":
		return river.JobCancel(errors.New(text))
	case "fail":
		return errors.New(text)
	case "panic":
		panic(text)
	case "snooze":
		return river.JobSnooze(time.Hour)
	}
	return nil
}

func (step stepParams) keep(ctx context.Context, p *peer, job *river.Job[textArgs]) error {
	if !step.Tx {
		if step.Set == nil {
			return nil
		}
		return river.ResumableSetCursor(ctx, step.Set)
	}
	return pgx.BeginFunc(ctx, p.pool, func(tx pgx.Tx) error {
		var err error
		if step.Set == nil {
			_, err = river.ResumableSetStepTx[*driver](ctx, tx, job)
		} else {
			_, err = river.ResumableSetStepCursorTx[*driver](ctx, tx, job, step.Set)
		}
		return err
	})
}
