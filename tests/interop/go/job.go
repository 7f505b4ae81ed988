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
	return answered(p.client.JobUpdate(ctx, params.ID, &river.JobUpdateParams{Output: params.Output}))
}

type listParams struct {
	IDs        []int64              `json:"ids"`
	Kinds      []string             `json:"kinds"`
	Priorities []int16              `json:"priorities"`
	Queues     []string             `json:"queues"`
	States     []rivertype.JobState `json:"states"`
	TagsAll    []string             `json:"tags_all"`
	TagsAny    []string             `json:"tags_any"`
	Metadata   string               `json:"metadata"`
	OrderBy    string               `json:"order_by"`
	Descending bool                 `json:"descending"`
	First      int                  `json:"first"`
	After      string               `json:"after"`
}

func jobList(ctx context.Context, p *peer, params listParams) (any, error) {
	list := river.NewJobListParams()
	if params.First > 0 {
		list = list.First(params.First)
	}
	if len(params.IDs) > 0 {
		list = list.IDs(params.IDs...)
	}
	if len(params.Kinds) > 0 {
		list = list.Kinds(params.Kinds...)
	}
	if len(params.Priorities) > 0 {
		list = list.Priorities(params.Priorities...)
	}
	if len(params.Queues) > 0 {
		list = list.Queues(params.Queues...)
	}
	if len(params.States) > 0 {
		list = list.States(params.States...)
	}
	if len(params.TagsAll) > 0 {
		list = list.TagsAll(params.TagsAll...)
	}
	if len(params.TagsAny) > 0 {
		list = list.TagsAny(params.TagsAny...)
	}
	if params.Metadata != "" {
		list = list.Metadata(params.Metadata)
	}
	return listed(ctx, p, list, params)
}

func listed(ctx context.Context, p *peer, list *river.JobListParams, params listParams) (any, error) {
	if params.OrderBy != "" {
		direction := river.SortOrderAsc
		if params.Descending {
			direction = river.SortOrderDesc
		}
		list = list.OrderBy(river.JobListOrderByField(params.OrderBy), direction)
	}
	if params.After != "" {
		cursor := &river.JobListCursor{}
		if err := cursor.UnmarshalText([]byte(params.After)); err != nil {
			return nil, err
		}
		list = list.After(cursor)
	}
	result, err := p.client.JobList(ctx, list)
	if err != nil {
		return nil, err
	}
	cursor := []byte{}
	if result.LastCursor != nil {
		if cursor, err = result.LastCursor.MarshalText(); err != nil {
			return nil, err
		}
	}
	return map[string]any{"jobs": allFields(result.Jobs), "cursor": string(cursor)}, nil
}

func jobDeleteMany(ctx context.Context, p *peer, params listParams) (any, error) {
	list := river.NewJobDeleteManyParams()
	if params.First > 0 {
		list = list.First(params.First)
	}
	if len(params.Kinds) > 0 {
		list = list.Kinds(params.Kinds...)
	}
	if len(params.Queues) > 0 {
		list = list.Queues(params.Queues...)
	}
	if len(params.States) > 0 {
		list = list.States(params.States...)
	}
	result, err := p.client.JobDeleteMany(ctx, list)
	if err != nil {
		return nil, err
	}
	return allFields(result.Jobs), nil
}
