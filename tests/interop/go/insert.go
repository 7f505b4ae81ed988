package main

import (
	"context"
	"encoding/json"
	"time"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

// textArgs are args of any kind, stored as the text they are given as.
type textArgs struct {
	kind string
	text json.RawMessage
}

func (a textArgs) Kind() string                 { return a.kind }
func (a textArgs) MarshalJSON() ([]byte, error) { return a.text, nil }

func (a *textArgs) UnmarshalJSON(text []byte) error {
	a.text = append(json.RawMessage{}, text...)
	return nil
}

// taggedArgs has tagged fields; args.py has the same ones.
type taggedArgs struct {
	Account accountArgs `json:"account"`
	Amount  float64     `json:"amount"             river:"unique"`
	Label   *string     `json:"label,omitempty"    river:"unique"`
	Path    string      `json:"path/key.with@more" river:"unique"`
	Noise   int         `json:"noise"`
}

type accountArgs struct {
	ID     int64  `json:"id"     river:"unique"`
	Region string `json:"region" river:"unique"`
	Note   string `json:"note"`
}

func (taggedArgs) Kind() string { return "interop_tagged" }

type insertParams struct {
	Kind string          `json:"kind"`
	Args json.RawMessage `json:"args"`
	Text string          `json:"text"` // in place of args, where it is the text that counts
	Opts optsParams      `json:"opts"`
}

func (params insertParams) args() river.JobArgs {
	if params.Kind == (taggedArgs{}).Kind() {
		var args taggedArgs
		if err := json.Unmarshal(params.Args, &args); err != nil {
			panic(err)
		}
		return args
	}
	if params.Text != "" {
		return textArgs{params.Kind, json.RawMessage(params.Text)}
	}
	return textArgs{params.Kind, params.Args}
}

type optsParams struct {
	MaxAttempts int             `json:"max_attempts"`
	Metadata    json.RawMessage `json:"metadata"`
	Pending     bool            `json:"pending"`
	Priority    int             `json:"priority"`
	Queue       string          `json:"queue"`
	ScheduledAt int64           `json:"scheduled_at"` // microseconds; 0: now
	Tags        []string        `json:"tags"`
	Unique      struct {
		ByArgs      bool                 `json:"by_args"`
		ByPeriod    int                  `json:"by_period"` // seconds
		ByQueue     bool                 `json:"by_queue"`
		ByState     []rivertype.JobState `json:"by_state"`
		ExcludeKind bool                 `json:"exclude_kind"`
	} `json:"unique"`
}

func (params optsParams) made() *river.InsertOpts {
	opts := &river.InsertOpts{
		MaxAttempts: params.MaxAttempts,
		Metadata:    params.Metadata,
		Pending:     params.Pending,
		Priority:    params.Priority,
		Queue:       params.Queue,
		Tags:        params.Tags,
		UniqueOpts: river.UniqueOpts{
			ByArgs:      params.Unique.ByArgs,
			ByPeriod:    time.Duration(params.Unique.ByPeriod) * time.Second,
			ByQueue:     params.Unique.ByQueue,
			ByState:     params.Unique.ByState,
			ExcludeKind: params.Unique.ExcludeKind,
		},
	}
	if params.ScheduledAt != 0 {
		opts.ScheduledAt = time.UnixMicro(params.ScheduledAt)
	}
	return opts
}

func resultFields(result *rivertype.JobInsertResult) map[string]any {
	return map[string]any{"job": jobFields(result.Job), "duplicate": result.UniqueSkippedAsDuplicate}
}

func insert(ctx context.Context, p *peer, params insertParams) (any, error) {
	result, err := p.client.Insert(ctx, params.args(), params.Opts.made())
	if err != nil {
		return nil, err
	}
	return resultFields(result), nil
}

type manyParams struct {
	Jobs []insertParams `json:"jobs"`
}

func (params manyParams) made() []river.InsertManyParams {
	many := make([]river.InsertManyParams, len(params.Jobs))
	for i, job := range params.Jobs {
		many[i] = river.InsertManyParams{Args: job.args(), InsertOpts: job.Opts.made()}
	}
	return many
}

func insertMany(ctx context.Context, p *peer, params manyParams) (any, error) {
	results, err := p.client.InsertMany(ctx, params.made())
	if err != nil {
		return nil, err
	}
	fields := make([]map[string]any, len(results))
	for i, result := range results {
		fields[i] = resultFields(result)
	}
	return fields, nil
}

func insertManyFast(ctx context.Context, p *peer, params manyParams) (any, error) {
	return p.client.InsertManyFast(ctx, params.made())
}
