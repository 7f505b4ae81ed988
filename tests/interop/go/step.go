package main

import (
	"context"
	"encoding/json"
	"errors"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
)

// stepParams is a resumable step: what it does at the job's first attempt, after which it always succeeds.
type stepParams struct {
	Name   string          `json:"name"`
	Cursor bool            `json:"cursor"` // a cursor step
	Set    json.RawMessage `json:"set"`    // the cursor it sets at the first attempt
	Tx     bool            `json:"tx"`     // in a transaction of its own
	Fail   bool            `json:"fail"`   // the first attempt fails here
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
	if job.Attempt > 1 {
		return nil
	}
	if err := step.keep(ctx, p, job); err != nil {
		return err
	}
	if step.Fail {
		return errors.New("failed in step " + step.Name)
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
