package main

import (
	"context"
	"encoding/hex"
	"encoding/json"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
	"github.com/riverqueue/river/rivertype"
)

type echoArgs struct {
	Behavior   string `json:"behavior"`
	DurationMS int64  `json:"duration_ms"`
	Message    string `json:"message"`
}

func (echoArgs) Kind() string { return "conformance_echo" }

type echoOpts struct {
	MaxAttempts int             `json:"max_attempts"`
	Metadata    json.RawMessage `json:"metadata"`
	Pending     bool            `json:"pending"`
	Priority    int             `json:"priority"`
	Queue       string          `json:"queue"`
	ScheduledAt time.Time       `json:"scheduled_at"`
	Tags        []string        `json:"tags"`
	Unique      struct {
		ByArgs      bool                 `json:"by_args"`
		ByPeriodMS  int                  `json:"by_period_ms"`
		ByQueue     bool                 `json:"by_queue"`
		ByState     []rivertype.JobState `json:"by_state"`
		ExcludeKind bool                 `json:"exclude_kind"`
	} `json:"unique"`
}

type echoJob struct {
	echoArgs
	Opts   echoOpts `json:"opts"`
	Schema string   `json:"schema"`
}

func (job echoJob) insertion() river.InsertManyParams {
	unique := job.Opts.Unique
	return river.InsertManyParams{Args: job.echoArgs, InsertOpts: &river.InsertOpts{
		MaxAttempts: job.Opts.MaxAttempts, Metadata: job.Opts.Metadata, Pending: job.Opts.Pending,
		Priority: job.Opts.Priority, Queue: job.Opts.Queue, ScheduledAt: job.Opts.ScheduledAt, Tags: job.Opts.Tags,
		UniqueOpts: river.UniqueOpts{
			ByArgs: unique.ByArgs, ByPeriod: milliseconds(unique.ByPeriodMS), ByQueue: unique.ByQueue,
			ByState: unique.ByState, ExcludeKind: unique.ExcludeKind,
		},
	}}
}

func normal(job *rivertype.JobRow) map[string]any {
	failures := make([]map[string]any, len(job.Errors))
	for i, failed := range job.Errors {
		failures[i] = map[string]any{
			"at": utc(&failed.At), "attempt": failed.Attempt, "error": failed.Error, "trace": failed.Trace,
		}
	}
	var key, states any
	if job.UniqueKey != nil {
		key = hex.EncodeToString(job.UniqueKey)
		sorted := slices.Clone(job.UniqueStates)
		slices.Sort(sorted)
		states = sorted
	}
	return map[string]any{
		"args": members(job.EncodedArgs), "attempt": job.Attempt, "attempted_at": utc(job.AttemptedAt),
		"attempted_by": orEmpty(job.AttemptedBy), "created_at": utc(&job.CreatedAt), "errors": failures,
		"finalized_at": utc(job.FinalizedAt), "id": job.ID, "kind": job.Kind, "max_attempts": job.MaxAttempts,
		"metadata": members(job.Metadata), "priority": job.Priority, "queue": job.Queue,
		"scheduled_at": utc(&job.ScheduledAt), "state": string(job.State), "tags": orEmpty(job.Tags),
		"unique_key": key, "unique_states": states,
	}
}

func normals(jobs []*rivertype.JobRow) []map[string]any {
	found := make([]map[string]any, len(jobs))
	for i, job := range jobs {
		found[i] = normal(job)
	}
	return found
}

func inserted(results []*rivertype.JobInsertResult) map[string]any {
	found := make([]map[string]any, len(results))
	for i, result := range results {
		found[i] = map[string]any{"job": normal(result.Job), "unique_skipped_as_duplicate": result.UniqueSkippedAsDuplicate}
	}
	return map[string]any{"results": found}
}

func echoInsert(a *adapter, params echoJob) (any, error) {
	client, err := a.client(params.Schema)
	if err != nil {
		return nil, err
	}
	made := params.insertion()
	result, err := client.Insert(a.ctx, made.Args, made.InsertOpts)
	if err != nil {
		return nil, err
	}
	return normal(result.Job), nil
}

func txInsert(a *adapter, params struct {
	handleParams
	Job echoJob `json:"job"`
}) (any, error) {
	found, err := a.transaction(params.Handle)
	if err != nil {
		return nil, err
	}
	client, err := a.client("")
	if err != nil {
		return nil, err
	}
	made := params.Job.insertion()
	result, err := client.InsertTx(a.ctx, found, made.Args, made.InsertOpts)
	if err != nil {
		return nil, err
	}
	return normal(result.Job), nil
}

func echoInsertMany(a *adapter, params struct {
	handleParams
	Jobs []echoJob `json:"jobs"`
}) (any, error) {
	client, err := a.client("")
	if err != nil {
		return nil, err
	}
	made := make([]river.InsertManyParams, len(params.Jobs))
	for i, job := range params.Jobs {
		made[i] = job.insertion()
	}
	var results []*rivertype.JobInsertResult
	if params.Handle == "" {
		results, err = client.InsertMany(a.ctx, made)
	} else {
		var found pgx.Tx
		if found, err = a.transaction(params.Handle); err == nil {
			results, err = client.InsertManyTx(a.ctx, found, made)
		}
	}
	if err != nil {
		return nil, err
	}
	return inserted(results), nil
}

func benchmarkEnqueue(a *adapter, params struct {
	Jobs int `json:"jobs"`
}) (any, error) {
	client, err := a.client("")
	if err != nil {
		return nil, err
	}
	taken, begun := make([]int64, params.Jobs), time.Now()
	for i := range taken {
		sent := time.Now()
		if _, err := client.Insert(a.ctx, echoArgs{Message: "benchmark-enqueue"}, nil); err != nil {
			return nil, err
		}
		taken[i] = time.Since(sent).Nanoseconds()
	}
	duration := time.Since(begun).Nanoseconds()
	slices.Sort(taken)
	at := int(math.Ceil(0.95*float64(params.Jobs))) - 1
	return map[string]any{"duration_ns": duration, "p95_ns": taken[at]}, nil
}

type txID struct {
	handleParams
	ID     int64           `json:"id"`
	Output json.RawMessage `json:"output"`
	Schema string          `json:"schema"`
}

type jobVerb func(ctx context.Context, client *river.Client[pgx.Tx], found pgx.Tx, params txID) (*rivertype.JobRow, error)

// ofJob makes a method of a verb that takes a job's id; without a handle, it stands alone.
func ofJob(verb jobVerb) method {
	return taking(func(a *adapter, params txID) (any, error) {
		client, err := a.client(params.Schema)
		if err != nil {
			return nil, err
		}
		var job *rivertype.JobRow
		if params.Handle != "" {
			var found pgx.Tx
			if found, err = a.transaction(params.Handle); err == nil {
				job, err = verb(a.ctx, client, found, params)
			}
		} else {
			err = pgx.BeginFunc(a.ctx, a.pool, func(own pgx.Tx) error {
				var err error
				job, err = verb(a.ctx, client, own, params)
				return err
			})
		}
		if err != nil {
			return nil, err
		}
		return normal(job), nil
	})
}

func verb(plain func(*river.Client[pgx.Tx], context.Context, pgx.Tx, int64) (*rivertype.JobRow, error)) method {
	return ofJob(func(ctx context.Context, client *river.Client[pgx.Tx], found pgx.Tx, params txID) (*rivertype.JobRow, error) {
		return plain(client, ctx, found, params.ID)
	})
}

func update(ctx context.Context, client *river.Client[pgx.Tx], found pgx.Tx, params txID) (*rivertype.JobRow, error) {
	changes := &river.JobUpdateParams{}
	if params.Output != nil {
		changes.Output = params.Output
	}
	return client.JobUpdateTx(ctx, found, params.ID, changes)
}

func wait(a *adapter, params struct {
	ID     int64    `json:"id"`
	States []string `json:"states"`
}) (any, error) {
	if params.States == nil {
		params.States = []string{"cancelled", "completed", "discarded"}
	}
	client, err := a.client("")
	if err != nil {
		return nil, err
	}
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		job, err := client.JobGet(a.ctx, params.ID)
		if err != nil {
			return nil, err
		}
		if slices.Contains(params.States, string(job.State)) {
			return normal(job), nil
		}
	}
	return nil, rejected("too late")
}

type filterParams struct {
	handleParams
	listParams
	Direction string `json:"direction"`
	All       bool   `json:"all"`
}

func listed(a *adapter, params filterParams) (any, error) {
	params.Descending = params.Direction == "desc"
	list, err := params.listParams.made()
	if err != nil {
		return nil, err
	}
	client, err := a.client("")
	if err != nil {
		return nil, err
	}
	var result *river.JobListResult
	if params.Handle == "" {
		result, err = client.JobList(a.ctx, list)
	} else {
		var found pgx.Tx
		if found, err = a.transaction(params.Handle); err == nil {
			result, err = client.JobListTx(a.ctx, found, list)
		}
	}
	if err != nil {
		return nil, err
	}
	fields := map[string]any{"jobs": normals(result.Jobs), "cursor": nil}
	if result.LastCursor != nil {
		text, err := result.LastCursor.MarshalText()
		if err != nil {
			return nil, err
		}
		fields["cursor"] = string(text)
	}
	return fields, nil
}

func deletedMany(a *adapter, params filterParams) (any, error) {
	list := river.NewJobDeleteManyParams()
	list = given(list, params.IDs, (*river.JobDeleteManyParams).IDs)
	list = given(list, params.Kinds, (*river.JobDeleteManyParams).Kinds)
	list = given(list, params.Queues, (*river.JobDeleteManyParams).Queues)
	list = given(list, params.States, (*river.JobDeleteManyParams).States)
	if params.All {
		list = list.UnsafeAll()
	}
	if params.Limit != 0 {
		list = list.First(params.Limit)
	}
	client, err := a.client("")
	if err != nil {
		return nil, err
	}
	var result *river.JobDeleteManyResult
	if params.Handle == "" {
		result, err = client.JobDeleteMany(a.ctx, list)
	} else {
		var found pgx.Tx
		if found, err = a.transaction(params.Handle); err == nil {
			result, err = client.JobDeleteManyTx(a.ctx, found, list)
		}
	}
	if err != nil {
		return nil, err
	}
	return map[string]any{"jobs": normals(result.Jobs)}, nil
}

func migrated(a *adapter, params struct {
	Direction     string `json:"direction"`
	DryRun        bool   `json:"dry_run"`
	MaxSteps      int    `json:"max_steps"`
	Schema        string `json:"schema"`
	TargetVersion int    `json:"target_version"`
}) (any, error) {
	if params.Schema != "" {
		quoted := pgx.Identifier{params.Schema}.Sanitize()
		if _, err := a.pool.Exec(a.ctx, "CREATE SCHEMA IF NOT EXISTS "+quoted); err != nil {
			return nil, err
		}
	}
	config := &rivermigrate.Config{Logger: a.logger, Schema: params.Schema}
	migrator, err := rivermigrate.New(riverpgxv5.New(a.pool), config)
	if err != nil {
		return nil, err
	}
	direction := rivermigrate.DirectionUp
	if params.Direction == "down" {
		direction = rivermigrate.DirectionDown
	}
	opts := &rivermigrate.MigrateOpts{DryRun: params.DryRun, MaxSteps: params.MaxSteps, TargetVersion: params.TargetVersion}
	result, err := migrator.Migrate(a.ctx, direction, opts)
	if err != nil {
		return nil, err
	}
	applied, existing := []int{}, []int{}
	for _, version := range result.Versions {
		applied = append(applied, version.Version)
	}
	there, err := migrator.ExistingVersions(a.ctx)
	if err != nil {
		return nil, err
	}
	for _, migration := range there {
		existing = append(existing, migration.Version)
	}
	valid, err := migrator.Validate(a.ctx, nil)
	if err != nil {
		return nil, err
	}
	a.pool.Reset()
	return map[string]any{"applied": applied, "existing": existing, "valid": valid.OK}, nil
}
