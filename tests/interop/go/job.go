package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

type tx = pgx.Tx

type idParams struct {
	ID int64 `json:"id"`
}

// jobFields has times in microseconds, and JSON as the text it was stored as.
func jobFields(job *rivertype.JobRow) map[string]any {
	errors := make([]map[string]any, len(job.Errors))
	for i, failed := range job.Errors {
		errors[i] = map[string]any{
			"at": failed.At.UnixMicro(), "attempt": failed.Attempt, "error": failed.Error, "trace": failed.Trace,
		}
	}
	return map[string]any{
		"id": job.ID, "kind": job.Kind, "queue": job.Queue, "state": string(job.State), "priority": job.Priority,
		"attempt": job.Attempt, "max_attempts": job.MaxAttempts, "attempted_by": orEmpty(job.AttemptedBy),
		"args": string(job.EncodedArgs), "metadata": string(job.Metadata), "tags": orEmpty(job.Tags), "errors": errors,
		"attempted_at": micros(job.AttemptedAt), "created_at": micros(&job.CreatedAt),
		"finalized_at": micros(job.FinalizedAt), "scheduled_at": micros(&job.ScheduledAt),
	}
}

func orEmpty(values []string) []string { return append([]string{}, values...) }

func micros(at *time.Time) any {
	if at == nil {
		return nil
	}
	return at.UnixMicro()
}

func allFields(jobs []*rivertype.JobRow) []map[string]any {
	fields := make([]map[string]any, len(jobs))
	for i, job := range jobs {
		fields[i] = jobFields(job)
	}
	return fields
}

// answered is a verb's job as an answer.
func answered(job *rivertype.JobRow, err error) (any, error) {
	if err != nil {
		return nil, err
	}
	return jobFields(job), nil
}

func jobGet(ctx context.Context, p *peer, params idParams) (any, error) {
	return answered(p.client.JobGet(ctx, params.ID))
}

func jobCancel(ctx context.Context, p *peer, params idParams) (any, error) {
	return answered(p.client.JobCancel(ctx, params.ID))
}

func jobRetry(ctx context.Context, p *peer, params idParams) (any, error) {
	return answered(p.client.JobRetry(ctx, params.ID))
}

func jobDelete(ctx context.Context, p *peer, params idParams) (any, error) {
	return answered(p.client.JobDelete(ctx, params.ID))
}

type updateParams struct {
	ID     int64           `json:"id"`
	Output json.RawMessage `json:"output"`
}

func jobUpdate(ctx context.Context, p *peer, params updateParams) (any, error) {
	update := &river.JobUpdateParams{}
	if params.Output != nil {
		update.Output = params.Output
	}
	return answered(p.client.JobUpdate(ctx, params.ID, update))
}
