// River's client as an oracle for ours: answers each line of JSON on standard input with one on standard output.
//
//	admin SCHEMA
//
// {"do": "list", ...} gives {"ids": [...], "cursor": "..." | null}; {"do": "delete_many", ...} gives {"ids": [...]};
// "queue_update", "queue_pause", "queue_resume", "cancel", "update" and "request_resign" give {}. What River refuses
// gives {"error": "..."}. DATABASE_URL names the database.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivertype"
)

type request struct {
	Do         string               `json:"do"`
	ID         int64                `json:"id"`
	IDs        []int64              `json:"ids"`
	Kinds      []string             `json:"kinds"`
	Metadata   json.RawMessage      `json:"metadata"`
	Output     json.RawMessage      `json:"output"`
	Priorities []int16              `json:"priorities"`
	Queue      string               `json:"queue"`
	Queues     []string             `json:"queues"`
	States     []rivertype.JobState `json:"states"`
	TagsAll    []string             `json:"tags_all"`
	TagsAny    []string             `json:"tags_any"`
	OrderBy    string               `json:"order_by"`
	Descending bool                 `json:"descending"`
	Limit      int                  `json:"limit"`
	After      string               `json:"after"`
	All        bool                 `json:"all"`
}

type answer struct {
	IDs    []int64 `json:"ids,omitempty"`
	Cursor *string `json:"cursor,omitempty"`
	Error  string  `json:"error,omitempty"`
}

func main() {
	if err := run(context.Background(), os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "admin:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, schema string) error {
	pool, err := pgxpool.New(ctx, os.Getenv("DATABASE_URL"))
	if err != nil {
		return err
	}
	defer pool.Close()
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{Logger: slog.New(slog.DiscardHandler), Schema: schema})
	if err != nil {
		return err
	}
	lines, answers := bufio.NewScanner(os.Stdin), json.NewEncoder(os.Stdout)
	lines.Buffer(nil, 64<<20)
	for lines.Scan() {
		var asked request
		if err := json.Unmarshal(lines.Bytes(), &asked); err != nil {
			return err
		}
		given, err := do(ctx, client, &asked)
		if err != nil {
			given = answer{Error: err.Error()}
		}
		if err := answers.Encode(given); err != nil {
			return err
		}
	}
	return lines.Err()
}

// River panics where a limit is out of range.
func do(ctx context.Context, client *river.Client[pgx.Tx], asked *request) (given answer, err error) {
	defer func() {
		if panicked := recover(); panicked != nil {
			err = fmt.Errorf("panic: %v", panicked)
		}
	}()
	switch asked.Do {
	case "list":
		return list(ctx, client, asked)
	case "delete_many":
		return deleteMany(ctx, client, asked)
	case "update":
		var params river.JobUpdateParams
		if asked.Output != nil {
			params.Output = asked.Output
		}
		_, err = client.JobUpdate(ctx, asked.ID, &params)
	case "cancel":
		_, err = client.JobCancel(ctx, asked.ID)
	case "queue_update":
		_, err = client.QueueUpdate(ctx, asked.Queue, &river.QueueUpdateParams{Metadata: asked.Metadata})
	case "queue_pause":
		err = client.QueuePause(ctx, asked.Queue, nil)
	case "queue_resume":
		err = client.QueueResume(ctx, asked.Queue, nil)
	case "request_resign":
		err = client.Notify().RequestResign(ctx)
	default:
		err = fmt.Errorf("cannot do %q", asked.Do)
	}
	return answer{}, err
}

func list(ctx context.Context, client *river.Client[pgx.Tx], asked *request) (answer, error) {
	params := river.NewJobListParams()
	if asked.IDs != nil {
		params = params.IDs(asked.IDs...)
	}
	if asked.Kinds != nil {
		params = params.Kinds(asked.Kinds...)
	}
	if asked.Metadata != nil {
		params = params.Metadata(string(asked.Metadata))
	}
	if asked.Priorities != nil {
		params = params.Priorities(asked.Priorities...)
	}
	if asked.Queues != nil {
		params = params.Queues(asked.Queues...)
	}
	if asked.States != nil {
		params = params.States(asked.States...)
	}
	if asked.TagsAll != nil {
		params = params.TagsAll(asked.TagsAll...)
	}
	if asked.TagsAny != nil {
		params = params.TagsAny(asked.TagsAny...)
	}
	if asked.OrderBy != "" {
		direction := river.SortOrderAsc
		if asked.Descending {
			direction = river.SortOrderDesc
		}
		params = params.OrderBy(river.JobListOrderByField(asked.OrderBy), direction)
	}
	if asked.Limit != 0 {
		params = params.First(asked.Limit)
	}
	if asked.After != "" {
		var cursor river.JobListCursor
		if err := cursor.UnmarshalText([]byte(asked.After)); err != nil {
			return answer{}, err
		}
		params = params.After(&cursor)
	}
	found, err := client.JobList(ctx, params)
	if err != nil {
		return answer{}, err
	}
	given := answer{IDs: ids(found.Jobs)}
	if found.LastCursor != nil {
		text, err := found.LastCursor.MarshalText()
		if err != nil {
			return answer{}, err
		}
		cursor := string(text)
		given.Cursor = &cursor
	}
	return given, nil
}

func deleteMany(ctx context.Context, client *river.Client[pgx.Tx], asked *request) (answer, error) {
	params := river.NewJobDeleteManyParams()
	if asked.IDs != nil {
		params = params.IDs(asked.IDs...)
	}
	if asked.Kinds != nil {
		params = params.Kinds(asked.Kinds...)
	}
	if asked.Priorities != nil {
		params = params.Priorities(asked.Priorities...)
	}
	if asked.Queues != nil {
		params = params.Queues(asked.Queues...)
	}
	if asked.States != nil {
		params = params.States(asked.States...)
	}
	if asked.All {
		params = params.UnsafeAll()
	}
	if asked.Limit != 0 {
		params = params.First(asked.Limit)
	}
	found, err := client.JobDeleteMany(ctx, params)
	if err != nil {
		return answer{}, err
	}
	return answer{IDs: ids(found.Jobs)}, nil
}

func ids(jobs []*rivertype.JobRow) []int64 {
	found := make([]int64, 0, len(jobs))
	for _, job := range jobs {
		found = append(found, job.ID)
	}
	return found
}
