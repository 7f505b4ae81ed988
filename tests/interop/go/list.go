package main

import (
	"context"
	"encoding/json"

	"github.com/riverqueue/river"
	"github.com/riverqueue/river/rivertype"
)

// listParams asks for jobs; what is not given is no filter. River panics where the limit is out of range.
type listParams struct {
	IDs        []int64              `json:"ids"`
	Kinds      []string             `json:"kinds"`
	Priorities []int16              `json:"priorities"`
	Queues     []string             `json:"queues"`
	States     []rivertype.JobState `json:"states"`
	TagsAll    []string             `json:"tags_all"`
	TagsAny    []string             `json:"tags_any"`
	Metadata   json.RawMessage      `json:"metadata"`
	OrderBy    string               `json:"order_by"`
	Descending bool                 `json:"descending"`
	Limit      int                  `json:"limit"`
	After      string               `json:"after"`
	UnsafeAll  bool                 `json:"unsafe_all"`
}

// given applies what was given of a filter.
func given[P any, V any](list P, values []V, filter func(P, ...V) P) P {
	if values == nil {
		return list
	}
	return filter(list, values...)
}

func (params listParams) made() (*river.JobListParams, error) {
	list := river.NewJobListParams()
	list = given(list, params.IDs, (*river.JobListParams).IDs)
	list = given(list, params.Kinds, (*river.JobListParams).Kinds)
	list = given(list, params.Priorities, (*river.JobListParams).Priorities)
	list = given(list, params.Queues, (*river.JobListParams).Queues)
	list = given(list, params.States, (*river.JobListParams).States)
	list = given(list, params.TagsAll, (*river.JobListParams).TagsAll)
	list = given(list, params.TagsAny, (*river.JobListParams).TagsAny)
	if params.Metadata != nil {
		list = list.Metadata(string(params.Metadata))
	}
	if params.OrderBy != "" {
		direction := river.SortOrderAsc
		if params.Descending {
			direction = river.SortOrderDesc
		}
		list = list.OrderBy(river.JobListOrderByField(params.OrderBy), direction)
	}
	if params.Limit != 0 {
		list = list.First(params.Limit)
	}
	if params.After != "" {
		cursor := &river.JobListCursor{}
		if err := cursor.UnmarshalText([]byte(params.After)); err != nil {
			return nil, err
		}
		list = list.After(cursor)
	}
	return list, nil
}

func jobList(ctx context.Context, p *peer, params listParams) (any, error) {
	list, err := params.made()
	if err != nil {
		return nil, err
	}
	result, err := p.client.JobList(ctx, list)
	if err != nil {
		return nil, err
	}
	fields := map[string]any{"jobs": allFields(result.Jobs), "cursor": nil}
	if result.LastCursor != nil {
		cursor, err := result.LastCursor.MarshalText()
		if err != nil {
			return nil, err
		}
		fields["cursor"] = string(cursor)
	}
	return fields, nil
}

func jobDeleteMany(ctx context.Context, p *peer, params listParams) (any, error) {
	list := river.NewJobDeleteManyParams()
	list = given(list, params.IDs, (*river.JobDeleteManyParams).IDs)
	list = given(list, params.Kinds, (*river.JobDeleteManyParams).Kinds)
	list = given(list, params.Priorities, (*river.JobDeleteManyParams).Priorities)
	list = given(list, params.Queues, (*river.JobDeleteManyParams).Queues)
	list = given(list, params.States, (*river.JobDeleteManyParams).States)
	if params.UnsafeAll {
		list = list.UnsafeAll()
	}
	if params.Limit != 0 {
		list = list.First(params.Limit)
	}
	result, err := p.client.JobDeleteMany(ctx, list)
	if err != nil {
		return nil, err
	}
	return allFields(result.Jobs), nil
}
