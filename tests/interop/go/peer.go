package main

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"os"
	"runtime/debug"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/riverlog"
	"github.com/riverqueue/river/rivertype"
)

type driver = riverpgxv5.Driver

// peer is one client on one schema, and what its jobs wait for.
type peer struct {
	schema string
	logger *slog.Logger

	mutex    sync.Mutex
	pool     *pgxpool.Pool
	client   *river.Client[pgx.Tx]
	released map[int64]chan struct{}
}

func newPeer(schema string) *peer {
	handler := slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelError})
	return &peer{schema: schema, logger: slog.New(handler), released: map[int64]chan struct{}{}}
}

type openParams struct {
	ID            string           `json:"id"`
	Queues        map[string]int   `json:"queues"`
	Kinds         []string         `json:"kinds"`
	PollOnly      bool             `json:"poll_only"`
	Follows       bool             `json:"follows"`
	CooldownMS    int              `json:"cooldown_ms"`
	PollMS        int              `json:"poll_ms"`
	RescueMS      int              `json:"rescue_ms"`
	RetryMS       int              `json:"retry_ms"`
	TimeoutMS     int              `json:"timeout_ms"`
	Periodic      []periodicParams `json:"periodic"`
	KnownKindOnly bool             `json:"known_kinds_only"`
}

type periodicParams struct {
	ID      string       `json:"id"`
	EveryMS int          `json:"every_ms"`
	AtStart bool         `json:"at_start"`
	Job     insertParams `json:"job"`
}

// open makes the client: it only inserts where no queues are given. Nothing of it runs before start.
func open(ctx context.Context, p *peer, params openParams) (any, error) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.client != nil {
		return nil, errors.New("open was called already")
	}
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return nil, err
	}
	config := &river.Config{
		ID:                     params.ID,
		FetchOnlyKnownKinds:    params.KnownKindOnly,
		JobTimeout:             milliseconds(params.TimeoutMS),
		LeaderElectionDisabled: params.Follows,
		Middleware:             []rivertype.Middleware{logs},
		Logger:                 p.logger,
		PollOnly:               params.PollOnly,
		FetchCooldown:          milliseconds(params.CooldownMS),
		FetchPollInterval:      milliseconds(params.PollMS),
		RescueStuckJobsAfter:   milliseconds(params.RescueMS),
		Schema:                 p.schema,
		TestOnly:               true, // no staggered start of the maintenance
	}
	if params.RetryMS > 0 {
		config.RetryPolicy = retryAfter(milliseconds(params.RetryMS))
	}
	if len(params.Queues) > 0 {
		config.Queues = map[string]river.QueueConfig{}
		for name, most := range params.Queues {
			config.Queues[name] = river.QueueConfig{MaxWorkers: most}
		}
		config.Workers = workers(p, params.Kinds)
	}
	for _, periodic := range params.Periodic {
		config.PeriodicJobs = append(config.PeriodicJobs, periodic.made())
	}
	client, err := river.NewClient(riverpgxv5.New(pool), config)
	if err != nil {
		pool.Close()
		return nil, err
	}
	p.pool, p.client = pool, client
	return client.ID(), nil
}

func (p periodicParams) made() *river.PeriodicJob {
	construct := func() (river.JobArgs, *river.InsertOpts) { return p.Job.args(), p.Job.Opts.made() }
	options := &river.PeriodicJobOpts{ID: p.ID, RunOnStart: p.AtStart}
	return river.NewPeriodicJob(river.PeriodicInterval(milliseconds(p.EveryMS)), construct, options)
}

func milliseconds(n int) time.Duration { return time.Duration(n) * time.Millisecond }

// logs keeps what jobs log with their rows.
var logs = riverlog.NewMiddleware(func(w io.Writer) slog.Handler { return slog.NewTextHandler(w, nil) }, nil)

type retryAfter time.Duration

func (after retryAfter) NextRetry(*rivertype.JobRow) time.Time {
	return time.Now().Add(time.Duration(after))
}

func start(ctx context.Context, p *peer, _ none) (any, error) {
	events, _ := p.client.SubscribeConfig(&river.SubscribeConfig{ChanSize: 100_000, Kinds: []river.EventKind{
		river.EventKindJobCancelled, river.EventKindJobCompleted, river.EventKindJobFailed,
		river.EventKindJobInterrupted, river.EventKindJobSnoozed,
		river.EventKindQueuePaused, river.EventKindQueueResumed,
	}})
	go func() {
		for event := range events {
			line := map[string]any{"event": string(event.Kind)}
			if event.Job != nil {
				line["job"] = jobFields(event.Job)
			}
			if event.Queue != nil {
				line["queue"] = event.Queue.Name
			}
			say(line)
		}
	}()
	return nil, p.client.Start(ctx)
}

func stop(ctx context.Context, p *peer, _ none) (any, error) { return nil, p.client.Stop(ctx) }

func stopAndCancel(ctx context.Context, p *peer, _ none) (any, error) {
	return nil, p.client.StopAndCancel(ctx)
}

func requestResign(ctx context.Context, p *peer, _ none) (any, error) {
	return nil, p.client.Notify().RequestResign(ctx)
}

func (p *peer) close(ctx context.Context) {
	if p.client != nil {
		_ = p.client.StopAndCancel(ctx)
		p.pool.Close()
	}
}

// released is the channel that release closes for a job that waits.
func (p *peer) releaseOf(id int64) chan struct{} {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	if p.released[id] == nil {
		p.released[id] = make(chan struct{})
	}
	return p.released[id]
}

func release(_ context.Context, p *peer, params idParams) (any, error) {
	close(p.releaseOf(params.ID))
	return nil, nil
}

func version(context.Context, *peer, none) (any, error) {
	info, _ := debug.ReadBuildInfo()
	found := map[string]string{}
	for _, module := range info.Deps {
		found[module.Path] = module.Version
	}
	return map[string]string{
		"river": found["github.com/riverqueue/river"], "ui": found["riverqueue.com/riverui"], "go": info.GoVersion,
	}, nil
}
