// Draws a board in a page, with Grafana's own code for everything that decides what is seen.
//
// Grafana's (packages @grafana/data and @grafana/ui): field config, overrides, thresholds, mappings, units, reducers and
// transformations; the frame of a panel, its title and its icons; the graph, its axes and its legend; the number; the
// table; colours and theme.
// Ours: what a Grafana server does around them (variables, query step, Prometheus' answer into data frames, the grid),
// the marks of annotations, and the bands of a state timeline: Grafana publishes no package with either. The bands are
// drawn on Grafana's plot, in the texts and colours that its display processor gives each value.

import '@fontsource/inter/400.css';
import '@fontsource/inter/500.css';
import {
  EventBusSrv, FieldMatcherID, FieldType, Registry, ThemeContext, VizOrientation,
  applyFieldOverrides, cacheFieldDisplayNames, createTheme, dataLinksOverrideProcessor, dateTime, displayNameOverrideProcessor, fieldMatchers,
  formattedValueToString, getDisplayValueAlignmentFactors, getFieldDisplayName, getFieldDisplayValues,
  identityOverrideProcessor, numberOverrideProcessor, standardTransformers, standardTransformersRegistry,
  stringOverrideProcessor, thresholdsOverrideProcessor, transformDataFrame, unitOverrideProcessor,
  valueMappingsOverrideProcessor,
} from '@grafana/data';
import { AxisPlacement, ScaleDirection, ScaleOrientation } from '@grafana/schema';
import {
  BigValue, GlobalStyles, Icon, GraphNG, PanelChrome, PanelContextProvider, TimeSeries, UPlotConfigBuilder, VizLayout,
  VizLegend, VizRepeater,
} from '@grafana/ui';
import { TableNG } from '@grafana/ui/unstable';
import React from 'react';
import { createRoot } from 'react-dom/client';
import { firstValueFrom } from 'rxjs';

// -- what Grafana registers when it starts ----------------------------------------------------------------------------

const processors = {
  unit: unitOverrideProcessor,
  min: numberOverrideProcessor,
  max: numberOverrideProcessor,
  decimals: numberOverrideProcessor,
  displayName: displayNameOverrideProcessor,
  noValue: stringOverrideProcessor,
  color: identityOverrideProcessor,
  thresholds: thresholdsOverrideProcessor,
  mappings: valueMappingsOverrideProcessor,
  links: dataLinksOverrideProcessor,
};

const custom = [
  'lineStyle', 'lineWidth', 'lineInterpolation', 'fillOpacity', 'showPoints', 'pointSize', 'spanNulls', 'drawStyle',
  'scaleDistribution', 'thresholdsStyle', 'hideFrom', 'axisSoftMin', 'axisSoftMax', 'axisPlacement', 'axisLabel',
  'gradientMode', 'stacking', 'cellOptions', 'width', 'minWidth', 'align', 'rowHeight',
];

const properties = new Registry(() => [
  ...Object.entries(processors).map(([id, process]) => ({
    id, path: id, name: id, process, override: null, editor: null, shouldApply: () => true,
  })),
  ...custom.map((path) => ({
    id: `custom.${path}`, path, name: path, isCustom: true, process: identityOverrideProcessor, override: null,
    editor: null, shouldApply: (field) => field.type !== FieldType.time || path === 'width',
  })),
]);

standardTransformersRegistry.setInit(() =>
  [...new Map(Object.values(standardTransformers).map((one) => [one.id, one])).values()].map((one) => ({
    id: one.id, name: one.name, transformation: () => Promise.resolve(one), aliasIds: one.aliasIds,
  }))
);

const theme = createTheme({ colors: { mode: window.PICTURE.theme } });

// -- what a Grafana server does: variables, steps, Prometheus' answers into frames ------------------------------------

const { board, from, to, scrapeSeconds, variables } = window.PICTURE;
const timeRange = { from: dateTime(from * 1000), to: dateTime(to * 1000), raw: { from: 'now-1h', to: 'now' } };

const filled = (text, stepSeconds) =>
  text
    .replaceAll('$__rate_interval', `${Math.max(stepSeconds + scrapeSeconds, 4 * scrapeSeconds)}s`)
    .replaceAll('$__interval', `${stepSeconds}s`)
    .replaceAll('$__range', `${Math.round(to - from)}s`)
    .replace(/\$\{?(\w+)(?::\w+)?\}?/g, (whole, name) => variables[name] ?? whole);

const named = (format, labels) =>
  !format || format === '__auto'
    ? Object.entries(labels).filter(([key]) => key !== '__name__').map(([key, value]) => `${key}="${value}"`).join(', ')
    : format.replace(/\{\{\s*(\w+)\s*\}\}/g, (_, key) => labels[key] ?? '');

async function frames(panel, width) {
  const stepSeconds = Math.max(scrapeSeconds, Math.ceil((to - from) / width));
  const answers = await Promise.all(
    panel.targets.map(async (target) => {
      const found = await window.ask(filled(target.expr, stepSeconds), target.instant ? 0 : stepSeconds);
      if (target.format === 'table') {
        return [tableFrame(target, found, panel.targets.length)];
      }
      return found.map((one) => seriesFrame(target, one, stepSeconds));
    })
  );
  return answers.flat();
}

function seriesFrame(target, { metric, values }, stepSeconds) {
  return {
    refId: target.refId,
    length: values.length,
    fields: [
      { name: 'Time', type: FieldType.time, config: { interval: stepSeconds * 1000 }, values: values.map(([t]) => t * 1000) },
      {
        name: 'Value', type: FieldType.number, labels: metric, values: values.map(([, v]) => Number(v)),
        config: { displayNameFromDS: named(target.legendFormat, metric) },
      },
    ],
  };
}

function tableFrame(target, found, many) {
  const labels = [...new Set(found.flatMap((one) => Object.keys(one.metric)))].sort();
  return {
    refId: target.refId,
    length: found.length,
    fields: [
      { name: 'Time', type: FieldType.time, config: {}, values: found.map((one) => one.values[0][0] * 1000) },
      ...labels.map((name) => ({
        name, type: FieldType.string, config: {}, values: found.map((one) => one.metric[name] ?? ''),
      })),
      {
        name: many > 1 ? `Value #${target.refId}` : 'Value', type: FieldType.number, config: {},
        values: found.map((one) => Number(one.values[0][1])),
      },
    ],
  };
}

async function prepared(panel, width) {
  const context = { interpolate: (text) => filled(text, scrapeSeconds) };
  const found = await firstValueFrom(
    transformDataFrame(panel.transformations ?? [], await frames(panel, width), context)
  );
  const made = applyFieldOverrides({
    data: found,
    fieldConfig: panel.fieldConfig ?? { defaults: {}, overrides: [] },
    fieldConfigRegistry: properties,
    replaceVariables: (text) => filled(text ?? '', scrapeSeconds),
    theme,
    timeZone: 'utc',
  });
  cacheFieldDisplayNames(made);
  return made;
}

// -- panels -----------------------------------------------------------------------------------------------------------

function Numbers({ panel, data, width, height }) {
  const { options } = panel;
  const getValues = () =>
    getFieldDisplayValues({
      fieldConfig: panel.fieldConfig, reduceOptions: options.reduceOptions, replaceVariables: (text) => text, theme, data,
      timeZone: 'utc',
    });
  return (
    <VizRepeater
      getValues={getValues}
      getAlignmentFactors={getDisplayValueAlignmentFactors}
      renderValue={({ value, width, height, alignmentFactors, count }) => (
        <BigValue
          value={value.display} width={width} height={height} alignmentFactors={alignmentFactors} count={count}
          colorMode={options.colorMode} graphMode={options.graphMode} justifyMode={options.justifyMode}
          textMode={options.textMode} text={options.text} theme={theme} disableWideLayout={!options.wideLayout}
        />
      )}
      width={width} height={height} source={data} itemSpacing={3} renderCounter={0} autoGrid
      orientation={options.orientation ?? VizOrientation.Auto}
    />
  );
}

function Lines({ panel, data, width, height, marks }) {
  if (data.length === 0) {
    return <NoData panel={panel} />;
  }
  return (
    <TimeSeries
      frames={data} timeRange={timeRange} timeZone="utc" width={width} height={height}
      legend={panel.options.legend} options={panel.options}
    >
      {(config) => {
        config.addHook('drawClear', (plot) => drawMarks(plot, marks));
        return null;
      }}
    </TimeSeries>
  );
}

function drawMarks(plot, marks) {
  const { left, top, width, height } = plot.bbox;
  for (const { color, start, end } of marks) {
    const x = plot.valToPos(start * 1000, 'x', true);
    const right = plot.valToPos(end * 1000, 'x', true);
    if (right < left || x > left + width) {
      continue;
    }
    const [first, last] = [Math.max(x, left), Math.min(right, left + width)];
    plot.ctx.fillStyle = plot.ctx.strokeStyle = theme.visualization.getColorByName(color);
    plot.ctx.globalAlpha = 0.15;
    plot.ctx.fillRect(first, top, last - first, height);
    plot.ctx.globalAlpha = 1;
    plot.ctx.setLineDash([4, 4]);
    plot.ctx.beginPath();
    for (const at of [x, right].filter((one) => one >= left && one <= left + width)) {
      plot.ctx.moveTo(at, top);
      plot.ctx.lineTo(at, top + height);
    }
    plot.ctx.stroke();
    plot.ctx.setLineDash([]);
  }
}

function Bands({ panel, data, width, height }) {
  const items = (panel.fieldConfig.defaults.mappings ?? [])
    .flatMap((one) => Object.values(one.options))
    .map((one) => ({ label: one.text, color: theme.visualization.getColorByName(one.color), yAxis: 1 }));
  if (data.length === 0) {
    return <NoData panel={panel} />;
  }
  return (
    <GraphNG
      frames={data} timeRange={timeRange} timeZone="utc" width={width} height={height} propsToDiff={[]}
      fields={{
        x: fieldMatchers.get(FieldMatcherID.firstTimeField).get({}),
        y: fieldMatchers.get(FieldMatcherID.numeric).get({}),
      }}
      prepConfig={(frame, all) => bandsConfig(panel, frame, all)}
      renderLegend={() =>
        panel.options.legend?.showLegend === false ? null : (
          <VizLayout.Legend placement="bottom">
            <VizLegend items={items} placement="bottom" displayMode="list" />
          </VizLayout.Legend>
        )
      }
    />
  );
}

function bandsConfig(panel, frame, all) {
  const made = new UPlotConfigBuilder('utc');
  const rows = frame.fields.slice(1);
  const name = (field) => getFieldDisplayName(field, frame, all);
  made.addScale({
    scaleKey: 'x', isTime: true, orientation: ScaleOrientation.Horizontal, direction: ScaleDirection.Right,
    range: () => [from * 1000, to * 1000],
  });
  made.addScale({
    scaleKey: 'y', orientation: ScaleOrientation.Vertical, direction: ScaleDirection.Down, range: () => [0, rows.length],
  });
  made.addAxis({ scaleKey: 'x', isTime: true, placement: AxisPlacement.Bottom, timeZone: 'utc', theme, grid: { show: true } });
  made.addAxis({
    scaleKey: 'y', placement: AxisPlacement.Left, theme, grid: { show: false }, ticks: { show: false },
    size: labelSize(rows.map(name)), splits: () => rows.map((_, index) => index + 0.5), values: () => rows.map(name),
  });
  rows.forEach((field, index) => {
    made.addSeries({
      scaleKey: 'y', theme, fieldName: name(field), lineColor: 'transparent', pathBuilder: () => null,
      pointsBuilder: () => null, colorMode: undefined, thresholds: undefined,
    });
    made.addHook('draw', (plot) => drawBand(plot, plot.data[0], field, index, panel.options));
  });
  made.setPrepData(([one]) => [one.fields[0].values, ...one.fields.slice(1).map((field) => field.values)]);
  return made;
}

function labelSize(names) {
  const context = document.createElement('canvas').getContext('2d');
  context.font = '12px Inter';
  return Math.ceil(Math.max(...names.map((one) => context.measureText(one).width))) + 16;
}

function drawBand(plot, times, field, index, options) {
  const share = options.rowHeight ?? 0.9;
  const top = plot.valToPos(index + (1 - share) / 2, 'y', true);
  const bottom = plot.valToPos(index + (1 + share) / 2, 'y', true);
  const most = (times[1] - times[0]) * 3;
  let begin = 0;
  while (begin < times.length) {
    const value = field.values[begin];
    let end = begin + 1;
    while (end < times.length && field.values[end] === value) {
      end += 1;
    }
    if (value !== null && value !== undefined) {
      const until = end < times.length ? Math.min(times[end], times[end - 1] + most) : times[end - 1];
      const left = plot.valToPos(times[begin], 'x', true);
      const right = plot.valToPos(until, 'x', true);
      const shown = field.display(value);
      const { ctx } = plot;
      ctx.save();
      ctx.fillStyle = shown.color;
      ctx.globalAlpha = (field.config.custom?.fillOpacity ?? 70) / 100;
      ctx.fillRect(left, top, right - left, bottom - top);
      ctx.globalAlpha = 1;
      const text = formattedValueToString(shown);
      ctx.font = `${12 * devicePixelRatio}px Inter`;
      if (ctx.measureText(text).width + 8 < right - left) {
        ctx.fillStyle = theme.colors.getContrastText(shown.color);
        ctx.textAlign = 'left';
        ctx.textBaseline = 'middle';
        ctx.fillText(text, left + 6, (top + bottom) / 2);
      }
      ctx.restore();
    }
    begin = end;
  }
}

function Rows({ panel, data, width, height }) {
  return data.length === 0 || data[0].length === 0 ? (
    <NoData panel={panel} />
  ) : (
    <TableNG
      data={data[0]} width={width} height={height} fieldConfig={panel.fieldConfig} noHeader={panel.options?.showHeader === false}
      cellHeight={panel.options?.cellHeight} timeRange={timeRange} enableVirtualization={false} sortBy={panel.options?.sortBy}
    />
  );
}

const NoData = ({ panel }) => (
  <div style={{ height: '100%', display: 'grid', placeItems: 'center', color: theme.colors.text.secondary }}>
    {panel.fieldConfig?.defaults?.noValue ?? 'No data'}
  </div>
);

const KINDS = { stat: Numbers, timeseries: Lines, 'state-timeline': Bands, table: Rows };

// -- the grid ---------------------------------------------------------------------------------------------------------

const CELL = 30;
const GAP = 8;
const SIDE = 16;

function Panel({ panel, width, height, data, marks }) {
  const Kind = KINDS[panel.type];
  return (
    <PanelChrome
      title={panel.title} description={panel.description} width={width} height={height}
      titleItems={panel.links?.length ? <Icon name="external-link-alt" /> : undefined}
    >
      {(innerWidth, innerHeight) => <Kind panel={panel} data={data} width={innerWidth} height={innerHeight} marks={marks} />}
    </PanelChrome>
  );
}

function Board({ all, marks }) {
  const column = (window.innerWidth - 2 * SIDE + GAP) / 24;
  const bottom = Math.max(...all.map(({ panel: { gridPos } }) => gridPos.y + gridPos.h));
  return (
    <div style={{ position: 'relative', height: bottom * (CELL + GAP) + 2 * SIDE }} data-board={board.uid}>
      {all.map(({ panel, data }) => {
        const { x, y, w, h } = panel.gridPos;
        const [width, height] = [w * column - GAP, h * (CELL + GAP) - GAP];
        const place = { position: 'absolute', left: SIDE + x * column, top: SIDE + y * (CELL + GAP), width, height };
        return (
          <div key={panel.id} style={place} data-panel={panel.title}>
            {panel.type === 'row' ? (
              <h2 style={{ fontSize: 16, lineHeight: `${height}px`, color: theme.colors.text.primary }}>{panel.title}</h2>
            ) : (
              <Panel panel={panel} data={data} width={width} height={height} marks={marks} />
            )}
          </div>
        );
      })}
    </div>
  );
}

async function marksOf(one) {
  const step = scrapeSeconds;
  const found = one.enable ? await window.ask(filled(one.expr, step), step) : [];
  if (one.useValueForTime) {
    const times = new Set(found.flatMap(({ values }) => values.map(([, v]) => Number(v) / 1000)));
    return [...times].map((t) => ({ color: one.iconColor, start: t, end: t }));
  }
  return found.flatMap(({ values }) => {
    const spans = [];
    for (const [t] of values) {
      const last = spans[spans.length - 1];
      if (last && t - last.end <= 1.5 * step) {
        last.end = t;
      } else {
        spans.push({ color: one.iconColor, start: t, end: t });
      }
    }
    return spans;
  });
}

const column = (window.innerWidth - 2 * SIDE + GAP) / 24;
const all = await Promise.all(
  board.panels.map(async (panel) => ({
    panel, data: panel.type === 'row' ? [] : await prepared(panel, Math.floor(panel.gridPos.w * column)),
  }))
);
const marks = (await Promise.all(board.annotations.list.map(marksOf))).flat();
await document.fonts.ready;
createRoot(document.getElementById('root')).render(
  <ThemeContext.Provider value={theme}>
    <GlobalStyles />
    <PanelContextProvider value={{ eventsScope: 'global', eventBus: new EventBusSrv() }}>
      <Board all={all} marks={marks} />
    </PanelContextProvider>
  </ThemeContext.Provider>
);
